"""Windows of time: when they start and end, and the time that they are reckoned in."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from app.quota.model import CalendarWindow, FixedWindow, Outcome, Unit

# Calendar windows that are remembered; most limits share a time zone.
_KNOWN_BOUNDS = 256


def window_end(window: FixedWindow | CalendarWindow, now: int) -> int:
    """Return when the window that holds `now` ends (both in Unix seconds)."""
    if isinstance(window, CalendarWindow):
        return calendar_bounds(window, now)[1]
    return now - now % window.seconds + window.seconds


def count_hits(window: FixedWindow | CalendarWindow, counted: int, now: int, hits: int) -> tuple[int, Outcome]:
    """Return the state after `hits` at `now` (Unix seconds), and their outcome; see `count_until`."""
    return count_until(window, counted, window_end(window, now) - now, hits)


def count_until(
    window: FixedWindow | CalendarWindow, counted: int, reset_seconds: int, hits: int
) -> tuple[int, Outcome]:
    """Return the state after `hits` in a window that ends in `reset_seconds`, and their outcome.

    `counted` is the state before them. The state is the number of hits in the window. Over the limit is what exceeds
    it, so that 0 hits are allowed while exactly the limit is used.
    """
    after = counted + hits
    remaining = window.requests - after
    if remaining >= 0:
        return after, Outcome(True, remaining, reset_seconds)
    return after if window.counts_refused else counted, Outcome(False, 0, reset_seconds)


def calendar_bounds(window: CalendarWindow, now: int) -> tuple[int, int]:
    """Return when the calendar's window that holds `now` starts and ends (all in Unix seconds)."""
    zone = ZoneInfo(window.zone)
    day = datetime.fromtimestamp(now, UTC).astimezone(zone).date()
    return _bounds(window.unit, window.zone, day.toordinal())


@lru_cache(_KNOWN_BOUNDS)
def _bounds(unit: Unit, zone: str, ordinal: int) -> tuple[int, int]:
    day = datetime.fromordinal(ordinal)
    if unit is Unit.DAY:
        start, end = day, day + timedelta(days=1)
    elif unit is Unit.WEEK:
        start = day - timedelta(days=day.weekday())
        end = start + timedelta(days=7)
    elif unit is Unit.MONTH:
        start = day.replace(day=1)
        end = (start + timedelta(days=32)).replace(day=1)
    else:
        start = day.replace(month=1, day=1)
        end = start.replace(year=start.year + 1)
    return _midnight(start, zone), _midnight(end, zone)


def _midnight(day: datetime, zone: str) -> int:
    """Return when `day` begins: at midnight, or at the end of a gap that midnight falls into."""
    return int(day.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC).timestamp())


def steady_offset(offset: float, wall: float, monotonic: float) -> float:
    """Return the new offset of Unix time over the monotonic clock, both in seconds, from the last one.

    Time that is read as the monotonic clock plus this offset follows the wall clock forward and never goes back: after
    the wall clock is turned back it continues at its pace, so that no window starts, and grants its limit, twice.
    """
    return max(offset, wall - monotonic)
