"""Waiting without waiting: time moves when somebody waits."""

import asyncio


class ManualWaiter:
    """Moves the clock by each wait at once; `hook`, if set, runs before. After `limit` waits it waits for ever."""

    def __init__(self, clock, limit: int = 10_000) -> None:
        self.clock, self.limit = clock, limit
        self.waits: list[float] = []
        self.hook = None
        self.exhausted = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        assert seconds > 0
        if len(self.waits) >= self.limit:
            self.exhausted.set()
            await asyncio.Event().wait()
        self.waits.append(seconds)
        if self.hook:
            self.hook()
        self.clock.advance(seconds)
        await asyncio.sleep(0)
