"""The demo's child processes: started, watched, and stopped in every case."""

import asyncio
import os
import re
import signal
import sys
from collections import deque
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar

from app.core.errors import MeshwardError
from app.demo import launch

# How long a child may take to end by itself before it is killed.
STOP_SECONDS = 5.0
# How much later than its effects the end of a child may be noticed.
NOTICE_SECONDS = 0.3
# Lines of a log that are shown to explain a failure, and their bound each.
TAIL_LINES = 12
MAX_LINE_LENGTH = 400

# Colour codes and other control characters, which would otherwise reach the user's terminal from a log.
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")

Result = TypeVar("Result")


class ChildEndedError(MeshwardError):
    """A child process ended unexpectedly."""

    def __init__(self, child: "Child") -> None:
        super().__init__(f"{child.name} {ending(child.process.returncode)}")
        self.child = child


@dataclass(slots=True)
class Child:
    """One child process. `stopping`: its end is expected."""

    name: str
    process: asyncio.subprocess.Process
    stopping: bool = False
    watch: asyncio.Task[None] | None = field(default=None, repr=False)


class Children:
    """All child processes of one demo. Use as an asynchronous context manager: leaving it stops all of them."""

    def __init__(self, logs: Path) -> None:
        logs.mkdir(exist_ok=True)
        self._logs = logs
        self._children: dict[str, Child] = {}
        self._ended: asyncio.Queue[Child] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop_all()

    def __getitem__(self, name: str) -> Child:
        return self._children[name]

    async def start(
        self, name: str, argv: Sequence[str], environment: Mapping[str, str], *, ends: bool = False
    ) -> Child:
        """Start the program `argv` as the child `name`; what it prints is appended to the file `log_of(name)`.

        It leads a process group of its own, so that Ctrl-C in the terminal reaches this process alone. `ends`: it is
        expected to end by itself.
        """
        with self.log_of(name).open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), *argv),
                env=dict(environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        child = Child(name, process, stopping=ends)
        child.watch = asyncio.create_task(self._watch(child))
        self._children[name] = child
        return child

    async def stop(self, child: Child) -> None:
        """Ask `child` to end, wait, and kill its group if it takes longer than `STOP_SECONDS`."""
        child.stopping = True
        _signal_group(child, signal.SIGTERM)
        try:
            await asyncio.wait_for(child.process.wait(), STOP_SECONDS)
        except TimeoutError:
            _signal_group(child, signal.SIGKILL)
            await child.process.wait()
        if child.watch:
            await child.watch

    async def stop_all(self) -> None:
        """Stop every child, all at once, and return when the last has ended."""
        await asyncio.gather(*(self.stop(child) for child in self._children.values()))
        self._children.clear()

    async def unless_one_ends(self, work: Awaitable[Result]) -> Result:
        """Return what `work` returns. Raises ChildEndedError if a child ends before, or just when it fails."""
        doing = asyncio.ensure_future(work)
        watching = asyncio.ensure_future(self._ended.get())
        try:
            await asyncio.wait({doing, watching}, return_when=asyncio.FIRST_COMPLETED)
            if doing.done() and doing.exception():
                await asyncio.wait({watching}, timeout=NOTICE_SECONDS)
            if doing.done() and not (doing.exception() and watching.done()):
                return doing.result()
            raise ChildEndedError(watching.result())
        finally:
            for task in (doing, watching):
                task.cancel()
            await asyncio.gather(doing, watching, return_exceptions=True)

    def log_of(self, name: str) -> Path:
        """Return the file that takes what the child `name` prints."""
        return self._logs / f"{name}.log"

    def tail(self, name: str, lines: int = TAIL_LINES) -> tuple[str, ...]:
        """Return the last `lines` of the log of `name`, safe to print; nothing if it never started."""
        return tail(self.log_of(name), lines)

    async def _watch(self, child: Child) -> None:
        await child.process.wait()
        if not child.stopping:
            self._ended.put_nowait(child)


def tail(log: Path, lines: int = TAIL_LINES) -> tuple[str, ...]:
    """Return the last `lines` of the file `log`, without control characters and each of bounded length."""
    try:
        with log.open(encoding="utf-8", errors="replace") as text:
            last = deque(text, maxlen=lines)
    except FileNotFoundError:
        return ()
    return tuple(_ESCAPES.sub("", line.rstrip())[:MAX_LINE_LENGTH] for line in last)


def ending(returncode: int | None) -> str:
    """Return how a process ended, in words."""
    if returncode is None:
        return "is running"
    if returncode >= 0:
        return f"ended with exit code {returncode}"
    return f"was ended by {signal.Signals(-returncode).name}"


def _signal_group(child: Child, number: signal.Signals) -> None:
    if child.process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(child.process.pid, number)
