"""Waking whoever waits for a change."""

import asyncio


class Signal:
    """Counts events; anybody can wait for the count to pass the one that it has seen, and so misses none."""

    def __init__(self) -> None:
        self._count = 0
        self._fired = asyncio.Event()

    @property
    def count(self) -> int:
        """How many events there have been."""
        return self._count

    def fire(self) -> None:
        """Count an event and wake everybody who waits."""
        self._count += 1
        self._fired.set()
        self._fired = asyncio.Event()

    async def wait_beyond(self, count: int) -> None:
        """Return once there have been more than `count` events."""
        while self._count <= count:
            await self._fired.wait()
