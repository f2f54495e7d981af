"""Policy engines of third parties, found by the entry points that their packages declare."""

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import structlog

from app.authz.model import CheckInput
from app.authz.ports import Plugin
from app.authz.providers import Answer
from app.authz.rules.opa import MAX_DECISION_BYTES, input_document, input_text, read_decision
from app.core.errors import InvalidInputError, UnavailableError
from app.core.printable import printable
from app.core.signals import Latest

GROUP = "meshward.providers"
# Decisions at once; of more, the last would only wait until their time is over. Those that do not end when they are
# cancelled count as well.
MAX_DECIDING = 1000
# How long a plug-in may take to read what it decides by, and to close.
REFRESH_SECONDS = 10.0
CLOSE_SECONDS = 2.0
# Of an exception's text, in a message for operators.
MAX_SHOWN = 200

Call = Callable[[], Awaitable[object]]

_NOT_LOADED = Answer("its plug-in is not ready", undecided=True)
_BUSY = Answer(f"more than {MAX_DECIDING} requests wait for its plug-in", undecided=True)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PluginOptions:
    """Which plug-in decides, by the name of its entry point, its own options, and how long a decision may take."""

    plugin: str
    options: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.1


class PluginProvider:
    """Decides by what a plug-in returns; what it raises, and what is late or no decision, denies."""

    def __init__(self, name: str, options: PluginOptions) -> None:
        """Load the plug-in. Raises InvalidInputError that says why it cannot be used."""
        self._name, self._options = name, options
        self._plugin = _made(name, options)
        self._deciding: set[asyncio.Task[Any]] = set()
        self._failure = Latest("")
        self.loaded = False

    async def refresh(self) -> None:
        """Have the plug-in read what it decides by. Raises UnavailableError if it cannot; what it has read stays."""
        refresh = getattr(self._plugin, "refresh", None)
        if refresh is not None:
            problem = await _problem_of(refresh, REFRESH_SECONDS)
            if problem:
                raise UnavailableError(f"provider {self._name}: its plug-in {self._options.plugin} {problem}")
        if not self.loaded:
            self.loaded = True
            _log.info("provider_loaded", provider=self._name, modules=1, revision="")

    async def close(self) -> None:
        """Have the plug-in end what it has running."""
        for task in tuple(self._deciding):
            task.cancel()
        close = getattr(self._plugin, "close", None)
        if close is not None and (problem := await _problem_of(close, CLOSE_SECONDS)):
            _log.warning("provider_failed", provider=self._name, reason=problem)

    async def __call__(self, request: CheckInput) -> Answer:
        """Return the plug-in's decision."""
        if not self.loaded:
            return _NOT_LOADED
        if len(self._deciding) >= MAX_DECIDING:
            return _BUSY
        try:
            # A copy of its own, which it may change.
            document = json.loads(input_text(input_document(request)))
        except InvalidInputError as error:
            return Answer(error.message, undecided=True)
        task = asyncio.create_task(_guarded(partial(self._plugin.decide, document)))
        self._deciding.add(task)
        task.add_done_callback(self._deciding.discard)
        try:
            # Not `asyncio.timeout`, which waits for one that does not end when it is cancelled.
            await asyncio.wait({task}, timeout=self._options.seconds)
        finally:
            task.cancel()
        if not task.done():
            return self._failed(f"did not decide within {self._options.seconds * 1000:g} ms")
        decision, problem = task.result()
        return self._failed(problem) if problem else self._read(decision)

    def _read(self, decision: object) -> Answer:
        try:
            text = json.dumps(decision, allow_nan=False)
        except (ValueError, TypeError, RecursionError):
            return self._failed("returned what is no JSON")
        if len(text) > MAX_DECISION_BYTES:
            return self._failed(f"returned a decision longer than {MAX_DECISION_BYTES} bytes")
        self._failure.set("")
        return read_decision(json.loads(text))

    def _failed(self, problem: str) -> Answer:
        """Return the denial; the log has it once, until another thing goes wrong or a decision is made."""
        if self._failure.set(problem):
            _log.error("provider_failed", provider=self._name, reason=problem)
        return Answer(f"its plug-in {problem}", undecided=True)


def _made(provider: str, options: PluginOptions) -> Plugin:
    """Return the plug-in that a provider names. Raises InvalidInputError."""
    place = f"authz.providers.{provider}"
    entry = _entry_point(place, options.plugin)
    of = f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else entry.value
    try:
        made = entry.load()(provider, dict(options.options))
    except Exception as error:
        problem = f"the plug-in {options.plugin} ({of}) cannot be loaded: {_shown(error)}"
        raise InvalidInputError(f"{place}: {problem}") from error
    for method, required in (("decide", True), ("refresh", False), ("close", False)):
        found = getattr(made, method, None)
        if not (inspect.iscoroutinefunction(found) or (found is None and not required)):
            raise InvalidInputError(f"{place}: the plug-in {options.plugin} ({of}) has no 'async def {method}'")
    plugin: Plugin = made
    return plugin


def _entry_point(place: str, name: str) -> EntryPoint:
    installed = entry_points(group=GROUP)
    found = [each for each in installed if each.name == name]
    if len({each.value for each in found}) > 1:
        raise InvalidInputError(f"{place}: several packages have a plug-in {name!r}: uninstall all but one")
    if not found:
        names = ", ".join(sorted({each.name for each in installed}))
        known = f"installed are {names}" if names else f"no package with the entry point group {GROUP} is installed"
        raise InvalidInputError(f"{place}: there is no plug-in {name!r}: {known}")
    return found[0]


async def _guarded(call: Call) -> tuple[object, str]:
    """Return what a plug-in's coroutine returns, and what it raises, which may end neither task nor process."""
    try:
        return await call(), ""
    except asyncio.CancelledError:
        return None, "was cancelled"
    except BaseException as error:  # noqa: BLE001 - SystemExit would end the event loop
        return None, f"raised {_shown(error)}"


async def _problem_of(call: Call, seconds: float) -> str:
    task = asyncio.create_task(_guarded(call))
    await asyncio.wait({task}, timeout=seconds)
    if not task.done():
        task.cancel()
        return f"was not done within {seconds:g} s"
    return task.result()[1]


def _shown(error: BaseException) -> str:
    text = printable(str(error), MAX_SHOWN)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
