"""Removing records that are past their retention."""

from collections.abc import Awaitable, Callable

from app.core.clock import Clock

INTERVAL_SECONDS = 3600.0
# What one transaction removes: more in a second than is written, and few enough that other writers hardly wait.
MAX_REMOVED_PER_PASS = 5_000


class Pruning:
    """Removes records in passes. `remove` deletes at most as many as it is given and returns how many it deleted."""

    def __init__(self, clock: Clock, remove: Callable[[int], Awaitable[int]]) -> None:
        self._clock, self._remove = clock, remove
        self._finished_at: float | None = None

    async def maintain(self) -> None:
        """Make a pass, unless the last one, within the hour, left nothing to remove."""
        now = self._clock.monotonic()
        if self._finished_at is not None and now - self._finished_at < INTERVAL_SECONDS:
            return
        if await self._remove(MAX_REMOVED_PER_PASS) < MAX_REMOVED_PER_PASS:
            self._finished_at = now
