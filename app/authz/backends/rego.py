"""The provider that evaluates Rego embedded, in child processes (`rego_worker.py`)."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import structlog

from app.authz.backends.rego_files import read_files, read_policies
from app.authz.backends.rego_pool import RegoPool, Setup
from app.authz.backends.rego_wire import DECISION, FALSE, TRUE, UNDEFINED
from app.authz.model import Answer, CheckInput
from app.authz.rules.opa import input_document, input_text, read_decision, read_reply
from app.core.errors import InvalidInputError, UnavailableError

_NOT_LOADED = Answer("its policies are not loaded yet", undecided=True)
_FIXED = {
    TRUE: read_decision(True),
    FALSE: read_decision(False),
    UNDEFINED: Answer("its decision is undefined", undecided=True),
}

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RegoOptions:
    """Where the policies are and how they are evaluated.

    `query` is the path of the decision, `envoy/authz/allow`. `seconds` is how long an answer may take; `workers` how
    many processes evaluate. `v0`: the policies are written in Rego v0, whatever a bundle says.
    """

    path: Path
    query: str
    seconds: float
    workers: int
    v0: bool = False


class RegoProvider:
    """Decides by Rego policies on disk, all of them or none: what is not valid leaves the ones before active."""

    def __init__(self, name: str, options: RegoOptions) -> None:
        self._name, self._options = name, options
        self._files: dict[str, bytes] | None = None
        self._problem: InvalidInputError | None = None
        self._pool: RegoPool | None = None
        self._loading = asyncio.Lock()

    @property
    def loaded(self) -> bool:
        """Whether there are policies to decide by."""
        return self._pool is not None

    async def refresh(self) -> None:
        """Read the policies, and make them active if they were changed.

        Raises InvalidInputError that says what is wrong with them, UnavailableError if they cannot be read.
        """
        async with self._loading:
            files = await asyncio.to_thread(read_files, self._options.path)
            if files == self._files:
                if self._problem is not None:
                    raise self._problem.with_traceback(None)
                return
            if files != await asyncio.to_thread(read_files, self._options.path):
                raise UnavailableError(f"the files of {self._options.path} change while they are read")
            self._problem = None
            try:
                await self._activate(files)
            except InvalidInputError as error:
                self._problem = InvalidInputError(f"provider {self._name}: {error.message}")
                raise self._problem from error
            finally:
                self._files = files

    async def _activate(self, files: dict[str, bytes]) -> None:
        options = self._options
        policies = await asyncio.to_thread(read_policies, options.path, files)
        query = f"data.{options.query.replace('/', '.')}"
        pool = RegoPool(Setup(policies, query, options.seconds, options.workers, v0=options.v0 or policies.v0))
        try:
            await pool.start()
        except BaseException:
            await pool.close()
            raise
        before, self._pool = self._pool, pool
        if before is not None:
            before.retire()
        _log.info("provider_loaded", provider=self._name, modules=len(policies.modules), revision=policies.revision)

    async def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            await self._pool.close()

    async def __call__(self, request: CheckInput) -> Answer:
        """Return the policies' decision. What goes wrong denies: no decision, another type, an error, no time."""
        if self._pool is None:
            return _NOT_LOADED
        try:
            reply = await self._pool.evaluate(input_text(input_document(request)))
        except (InvalidInputError, UnavailableError) as error:
            return Answer(error.message, undecided=True)
        if (found := _FIXED.get(reply)) is not None:
            return found
        if reply.startswith(DECISION):
            return read_reply(reply[1:])
        return Answer(f"its evaluation failed: {reply[1:].decode(errors='replace')}", undecided=True)
