"""Fixed windows: when they start, what a count in one means."""

from app.quota.model import MAX_UINT32, Code, Limit, Status, Unlimited

NOT_LIMITED = Status(Code.OK)
UNLIMITED = Status(Code.OK, remaining=MAX_UINT32)


def steady_offset(offset: float, wall: float, monotonic: float) -> float:
    """Return the new offset of Unix time over the monotonic clock, both in seconds, from the last one.

    Time that is read as the monotonic clock plus this offset follows the wall clock forward and never goes back: after
    the wall clock is turned back it runs on at its pace, so that no window starts, and gives its quota, twice.
    """
    return max(offset, wall - monotonic)


def window_start(now: int, unit_seconds: int) -> int:
    """Return the start of the window that holds `now`: a multiple of the unit since the epoch (Unix seconds)."""
    return now - now % unit_seconds


def hits_of(descriptor_hits: int | None, request_hits: int) -> int:
    """Return what a descriptor counts: its own number if it has one, where 0 is a probe, else the request's, or 1."""
    return max(1, request_hits) if descriptor_hits is None else descriptor_hits


def judge(limit: Limit | None, count: int | None, now: int) -> Status:
    """Return the answer to a descriptor under `limit` whose count, its own hits included, is `count`.

    Over the limit is what exceeds it: a probe passes while exactly the limit was used. `count` is None where the
    counters had no room for one more key: what cannot be counted is not granted. `now` is in Unix seconds.
    """
    if limit is None:
        return NOT_LIMITED
    if isinstance(limit, Unlimited):
        return UNLIMITED
    remaining = -1 if count is None else limit.requests_per_unit - count
    over = remaining < 0 and not limit.shadow_mode
    unit_seconds = limit.unit.value
    return Status(
        Code.OVER_LIMIT if over else Code.OK,
        limit,
        max(0, remaining),
        unit_seconds - now % unit_seconds,
        count is not None,
    )


def overall(statuses: tuple[Status, ...]) -> Code:
    """Return the answer to a request: over the limit if any descriptor is."""
    for status in statuses:
        if status.code is Code.OVER_LIMIT:
            return Code.OVER_LIMIT
    return Code.OK
