"""Sleeping without time: until a test moves the clock, or by moving it."""

import asyncio
from collections.abc import Callable


class ManualSleep:
    """Ends when a test moves the clock."""

    def __init__(self, clock) -> None:
        self._clock = clock
        self._sleepers = []
        self._asleep = asyncio.Event()

    async def __call__(self, seconds):
        end = self._clock.monotonic() + seconds
        woken = asyncio.Event()
        self._sleepers.append((end, woken))
        self._asleep.set()
        try:
            await woken.wait()
        finally:
            self._sleepers.remove((end, woken))

    async def wait(self, signal, count, seconds):
        """A `Wait` whose time is the test's."""
        waiting = {asyncio.ensure_future(signal.wait_beyond(count)), asyncio.ensure_future(self(seconds))}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()

    async def advance(self, seconds):
        """Wait until somebody sleeps, move the clock, and wake those whose time has come."""
        await self.somebody_sleeps()
        self._clock.advance(seconds)
        for end, woken in self._sleepers:
            if end <= self._clock.monotonic():
                woken.set()
        self._asleep.clear()

    async def somebody_sleeps(self):
        async with asyncio.timeout(5):
            await self._asleep.wait()

    @property
    def sleeping(self):
        return len(self._sleepers)


class JumpingSleep:
    """Moves the clock by each sleep at once; `hook`, if set, runs before. After `limit` sleeps it never returns."""

    def __init__(self, clock, limit: int = 10_000) -> None:
        self.clock, self.limit = clock, limit
        self.sleeps: list[float] = []
        self.hook: Callable[[], object] | None = None
        self.exhausted = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        assert seconds > 0
        if len(self.sleeps) >= self.limit:
            self.exhausted.set()
            await asyncio.Event().wait()
        self.sleeps.append(seconds)
        if self.hook:
            self.hook()
        self.clock.advance(seconds)
        await asyncio.sleep(0)
