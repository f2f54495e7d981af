"""The demo's steps: run one after the other, shown with a tick or a cross."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TextIO

import httpx

from app.core.clock import Clock
from app.core.errors import MeshwardError
from app.demo.children import ChildEndedError, Children

# How long a step may take.
STEP_SECONDS = 30.0
# Where the second column starts.
TITLE_WIDTH = 36

_GREEN, _RED, _DIM, _PLAIN = "\x1b[32m", "\x1b[31m", "\x1b[2m", "\x1b[0m"
# To the start of the line, and clear it (ECMA-48).
_AGAIN = "\r\x1b[K"


class UnexpectedError(MeshwardError):
    """A step saw something unexpected. `logs` names the processes whose logs explain it."""

    def __init__(self, expected: str, seen: str, *logs: str) -> None:
        super().__init__(f"expected {expected}; saw {seen}")
        self.expected = expected
        self.seen = seen
        self.logs = logs


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `look` returns what it saw, in a few words, or raises UnexpectedError.

    `logs` names the processes whose logs explain a failure that names none. Without `seconds` it may take for ever.
    """

    title: str
    look: Callable[[], Awaitable[str]]
    logs: tuple[str, ...] = ()
    seconds: float | None = STEP_SECONDS


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a step failed, and the end of the logs that explain it, by process."""

    title: str
    expected: str
    seen: str
    logs: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class Screen:
    """Writes the progress of the demo to `stream`. `live`: a line can be overwritten, so running steps are shown."""

    stream: TextIO
    tick: str = "✔"
    cross: str = "✘"
    colour: bool = False
    live: bool = False

    def line(self, text: str) -> None:
        """Write `text` and end the line, at once."""
        self._write(f"{_AGAIN if self.live else ''}{text}\n")

    def running(self, title: str) -> None:
        """Show that a step is running, where the next line can overwrite it."""
        if self.live:
            self._write(f"{_AGAIN}  … {title}")

    def seen(self, title: str, seen: str, seconds: float) -> None:
        """Write the line of a step that succeeded; `seconds` is how long it took."""
        mark, duration = self._paint(_GREEN, self.tick), self._paint(_DIM, f"({seconds:.1f} s)")
        self.line(f"  {mark} {title:<{TITLE_WIDTH}} {seen} {duration}")

    def failed(self, failure: Failure) -> None:
        """Write the lines of a step that failed: what was expected, what was seen, and the logs that explain it."""
        self.line(f"  {self._paint(_RED, self.cross)} {failure.title}")
        self.line(f"      expected: {failure.expected}")
        self.line(f"      seen:     {failure.seen}")
        for name, tail in failure.logs:
            self.line(f"      the end of the log of {name}:")
            for line in tail or ("(empty)",):
                self.line(f"        {line}")

    def _paint(self, code: str, text: str) -> str:
        return f"{code}{text}{_PLAIN}" if self.colour else text

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


def screen_on(stream: TextIO) -> Screen:
    """Return the screen on `stream`: colours only on a terminal without NO_COLOR, marks that its encoding has."""
    live = stream.isatty()
    colour = live and not os.environ.get("NO_COLOR")
    try:
        "✔✘…".encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return Screen(stream, "ok", "FAILED", colour)
    return Screen(stream, colour=colour, live=live)


async def run_steps(steps: Sequence[Step], children: Children, clock: Clock, screen: Screen) -> Failure | None:
    """Run `steps` in order and show a line for each. Return the first failure, after which no step is run, or None."""
    for step in steps:
        started = clock.monotonic()
        screen.running(step.title)
        try:
            seen = await children.unless_one_ends(asyncio.wait_for(step.look(), step.seconds))
        except (MeshwardError, TimeoutError, OSError, httpx.HTTPError) as error:
            failure = _explain(step, error, children)
            screen.failed(failure)
            return failure
        screen.seen(step.title, seen, clock.monotonic() - started)
    return None


def _explain(step: Step, error: Exception, children: Children) -> Failure:
    expected, seen, logs = step.title, str(error) or type(error).__name__, step.logs
    match error:
        case UnexpectedError():
            expected, seen, logs = error.expected, error.seen, error.logs or logs
        case ChildEndedError():
            expected, logs = f"{error.child.name} to keep running", (error.child.name,)
        case TimeoutError() if step.seconds is not None:
            seen = f"nothing within {step.seconds:g} s"
    return Failure(step.title, expected, seen, tuple((name, children.tail(name)) for name in logs))
