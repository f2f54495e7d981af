"""Fixed windows: the algorithm that counts a limit in them, as a pure step from one state to the next.

The state of a counter is the number of hits in the window so far. Its store drops it when the window ends.
"""

from app.quota.model import FixedWindow, Outcome, RateLimit


def algorithm_of(limit: RateLimit) -> FixedWindow:
    """Return how `limit` is counted."""
    return FixedWindow(limit.requests_per_unit, limit.unit.seconds)


def window_end(window: FixedWindow, now: int) -> int:
    """Return when the window that holds `now` ends (both in Unix seconds)."""
    return now - now % window.seconds + window.seconds


def count_hits(window: FixedWindow, counted: int, now: int, hits: int) -> tuple[int, Outcome]:
    """Return the state after `hits` at `now` (Unix seconds), and their outcome; `counted` is the state before them.

    Over the limit is what exceeds it, so that 0 hits are allowed while exactly the limit is used.
    """
    counted += hits
    remaining = window.requests - counted
    reset_seconds = window.seconds - now % window.seconds
    return counted, Outcome(True, remaining, reset_seconds) if remaining >= 0 else Outcome(False, 0, reset_seconds)


def steady_offset(offset: float, wall: float, monotonic: float) -> float:
    """Return the new offset of Unix time over the monotonic clock, both in seconds, from the last one.

    Time that is read as the monotonic clock plus this offset follows the wall clock forward and never goes back: after
    the wall clock is turned back it continues at its pace, so that no window starts, and grants its limit, twice.
    """
    return max(offset, wall - monotonic)
