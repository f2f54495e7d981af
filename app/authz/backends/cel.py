"""The provider that decides by an expression in the Common Expression Language, from a file or from the settings."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import structlog

from app.authz.model import CheckInput
from app.authz.providers import Answer
from app.authz.rules.cel import Condition, read_condition
from app.cel.lexer import MAX_EXPRESSION
from app.core.bounded_files import read_regular
from app.core.errors import InvalidInputError, UnavailableError

# A character takes up to four bytes.
MAX_BYTES = 4 * MAX_EXPRESSION

_NOT_LOADED = Answer("its expression is not loaded yet", undecided=True)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CelOptions:
    """The expression, or the file that it is in."""

    expression: str = ""
    path: Path | None = None


class CelProvider:
    """Decides by one expression; a file that is not valid leaves the expression before active."""

    def __init__(self, name: str, options: CelOptions) -> None:
        self._name, self._options = name, options
        self._text: str | None = None
        self._problem: InvalidInputError | None = None
        self._condition: Condition | None = None

    @property
    def loaded(self) -> bool:
        """Whether there is an expression to decide by."""
        return self._condition is not None

    async def refresh(self) -> None:
        """Read the expression, and make it active if it was changed.

        Raises InvalidInputError that says what is wrong with it and where, UnavailableError if it cannot be read.
        """
        text = await asyncio.to_thread(self._read)
        if text != self._text:
            self._text, self._problem = text, None
            try:
                self._condition = read_condition(text)
            except InvalidInputError as error:
                self._problem = InvalidInputError(f"provider {self._name}: the expression {error.message}")
                raise self._problem from error
            _log.info("provider_loaded", provider=self._name, modules=1, revision="")
        elif self._problem is not None:
            raise self._problem.with_traceback(None)

    def _read(self) -> str:
        path = self._options.path
        if path is None:
            return self._options.expression
        try:
            content = read_regular(path, MAX_BYTES + 1)
        except OSError as error:
            raise UnavailableError(f"cannot read {path}: {error.strerror or error}") from error
        if len(content) > MAX_BYTES:
            raise InvalidInputError(f"provider {self._name}: {path} is longer than {MAX_BYTES} bytes")
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise InvalidInputError(f"provider {self._name}: {path} is not UTF-8") from error

    async def close(self) -> None:
        """Do nothing: nothing runs."""

    def __call__(self, request: CheckInput) -> Answer:
        """Return whether the expression is true; what is not true denies, and so does what has no value."""
        return _NOT_LOADED if self._condition is None else self._condition.decide(request)
