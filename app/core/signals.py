"""Telling the other tasks of an event loop about a change, and telling a change from a repetition."""

import asyncio
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

Value = TypeVar("Value")


class Signal:
    """A broadcast: counts events; a task waits for the count to pass the one that it has seen, and so misses none."""

    def __init__(self) -> None:
        self._count = 0
        self._fired = asyncio.Event()

    @property
    def count(self) -> int:
        """How many events there have been."""
        return self._count

    def fire(self) -> None:
        """Count an event and wake every task that waits."""
        self._count += 1
        self._fired.set()
        self._fired = asyncio.Event()

    async def wait_beyond(self, count: int) -> None:
        """Return once there have been more than `count` events."""
        while self._count <= count:
            await self._fired.wait()

    async def wait(self, seconds: float) -> None:
        """Return when there is another event, or after so many seconds."""
        await wait_beyond(self, self._count, seconds)


class Wait(Protocol):
    """Waits for a signal, or for a time that may be a test's."""

    async def __call__(self, signal: Signal, count: int, seconds: float) -> None:
        """Return once the signal has had more than `count` events, or after so many seconds."""


async def wait_beyond(signal: Signal, count: int, seconds: float) -> None:
    """Wait as `Wait` says, without a task: thousands of streams wait like this."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await signal.wait_beyond(count)


class Latest(Generic[Value]):
    """The value that was set last, so that what is found again and again is logged only when it changes."""

    def __init__(self, value: Value) -> None:
        self.value = value

    def set(self, value: Value) -> bool:
        """Keep `value` and return whether it differs from the one before."""
        changed = value != self.value
        self.value = value
        return changed
