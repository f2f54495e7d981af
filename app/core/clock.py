"""Time as a value that is passed in, so that decisions and tests own it."""

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Protocol

import structlog

# How far the wall clock may move against the monotonic one at once and be believed: more than NTP does to a clock that
# it keeps, less than certificates are backdated.
MAX_STEP_SECONDS = 60.0
# How long a wall clock that moved further must keep its new time before it is believed.
CONFIRM_SECONDS = 60.0

Sleep = Callable[[float], Awaitable[None]]
"""Lets that many seconds pass, as `asyncio.sleep` does."""


class Clock(Protocol):
    """Where the time comes from."""

    def now(self) -> datetime:
        """Return the wall clock's time, aware and in UTC."""

    def monotonic(self) -> float:
        """Return seconds from an arbitrary point that never go back."""


# The monotonic clock that goes on while the machine sleeps, where there is one: waking up is no step of the wall clock.
_MONOTONIC = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

log = structlog.get_logger(__name__)


class SystemClock(Clock):
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.clock_gettime(_MONOTONIC)


class ConfirmedClock(Clock):
    """A clock whose wall time follows a step of another's only once that has lasted for CONFIRM_SECONDS.

    Until then it goes on by the monotonic clock, so that a step that is taken back soon changes nothing. Log events:
    `clock_stepped` for each step, `clock_step_followed`.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset = clock.now().timestamp() - clock.monotonic()
        self._stepped_to: float | None = None
        self._stepped_at = 0.0

    def now(self) -> datetime:
        wall, monotonic = self._clock.now(), self._clock.monotonic()
        offset = wall.timestamp() - monotonic
        if abs(offset - self._offset) <= MAX_STEP_SECONDS:
            self._offset, self._stepped_to = offset, None
            return wall
        if self._stepped_to is None or abs(offset - self._stepped_to) > MAX_STEP_SECONDS:
            self._stepped_to, self._stepped_at = offset, monotonic
            log.warning("clock_stepped", seconds=round(offset - self._offset), wall=wall.isoformat())
        elif monotonic - self._stepped_at >= CONFIRM_SECONDS:
            log.warning("clock_step_followed", seconds=round(offset - self._offset), wall=wall.isoformat())
            self._offset, self._stepped_to = offset, None
            return wall
        return datetime.fromtimestamp(monotonic + self._offset, UTC)

    def monotonic(self) -> float:
        return self._clock.monotonic()
