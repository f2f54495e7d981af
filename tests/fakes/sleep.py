"""A sleep that ends when a test moves its clock, and tells when somebody sleeps."""

import asyncio


class ManualSleep:
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
