"""The algorithms that count limits, each a pure step from the state of one counter to the next.

A state is a tuple of integers, or None of a counter that nothing was counted in. Times are Unix milliseconds, lengths
milliseconds. Every number and every intermediate result is an integer below 2^53, or so far above any time and count
that its digits do not matter: the script that counts in Valkey has no others, and its results are the same.

A clock that is set back leaves a counter where it is until the time has caught up with the start of its window, or with
its last hit where windows are not aligned. A counter that would wait for more than a window's length starts again, so
that a clock that was far ahead cannot refuse for as long.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from app.quota.model import (
    MAX_UINT32,
    Algorithm,
    CalendarWindow,
    Concurrency,
    FixedWindow,
    Outcome,
    SlidingLog,
    SlidingWindow,
    TokenBucket,
    Total,
)
from app.quota.rules.window import calendar_bounds

State = tuple[int, ...]

MILLISECONDS = 1000
# Counts stay here once they are so high: far above every limit, and exact as a double.
MAX_COUNT = 2**52
# The longest wait that an answer reports, in milliseconds.
MAX_RESET = MAX_UINT32 * MILLISECONDS
# Slots that are taken within this part of their lifetime are kept as one: a state has 33 pairs at most.
SLOT_PARTS = 32
_LIMB = 65_536


class Step(NamedTuple):
    """A counter after a step: its state, what was decided, the requests that remain, and the milliseconds to the reset.

    The reset of what is refused is when it would be allowed, if nothing else is counted and it ever is.
    """

    state: State | None
    allowed: bool
    remaining: int
    reset: int

    def outcome(self) -> Outcome:
        """Return the outcome of the step."""
        return outcome_of(self.allowed, self.remaining, self.reset)


def outcome_of(allowed: bool, remaining: int, reset: int) -> Outcome:  # noqa: FBT001 - the fields of a step
    """Return the outcome of a step; its reset is in whole seconds, at least 1."""
    return Outcome(allowed, remaining, max(1, -(-min(reset, MAX_RESET) // MILLISECONDS)))


def count(algorithm: Algorithm, state: State | None, now: int, hits: int) -> Step:
    """Return the counter with `state` after `hits` at `now`. 0 hits read it; only slots are given back with fewer."""
    return _STEPS[type(algorithm)](algorithm, state, now, hits)


def lifetime(algorithm: Algorithm) -> int | None:
    """Return after how many milliseconds without a step a state is worth that of a new counter; None if it never is."""
    length = algorithm.seconds * MILLISECONDS
    match algorithm:
        case Total():
            return None
        case SlidingWindow():
            return 2 * length
        case TokenBucket(requests=requests, burst=burst):
            filled = mul_div(length, burst, requests, requests - 1) if requests else length
            return min(max(filled, MILLISECONDS), MAX_RESET)
        case Concurrency():
            return length + slot_part(length)
        case CalendarWindow():
            return length + 2 * 86_400 * MILLISECONDS  # a month of 31 days and a year of 366 are longer than the unit
        case FixedWindow() | SlidingLog():
            return length


def mul_div(left: int, right: int, divisor: int, extra: int = 0) -> int:
    """Return floor((left * right + extra) / divisor) without an intermediate result above 2^53.

    `left` is below 2^35, `right` and `divisor` are below 2^32 or the other way round.
    """
    whole, rest = divmod(left, divisor)
    high, low = divmod(right, _LIMB)
    upper, carried = divmod(rest * high, divisor)
    return whole * right + upper * _LIMB + (carried * _LIMB + rest * low + extra) // divisor


def slot_part(length: int) -> int:
    """Return to multiples of how many milliseconds the ends of slots are rounded up."""
    return max(1, length // SLOT_PARTS)


def _in_window(window: FixedWindow | CalendarWindow, state: State | None, bounds: tuple[int, int], hits: int) -> Step:
    """Count in the window from `bounds[0]` on. Its reset is to be reckoned from the start, which may be the state's."""
    start, end = bounds
    counted = 0
    if state is not None and start <= state[0] <= end:
        start, counted = state
    after = min(counted + hits, MAX_COUNT)
    allowed = after <= window.requests
    if not allowed and not window.counts_refused:
        after = counted
    return Step((start, after), allowed, max(0, window.requests - after) if allowed else 0, 0)


def _fixed_window(window: FixedWindow, state: State | None, now: int, hits: int) -> Step:
    length = window.seconds * MILLISECONDS
    start = now - now % length
    step = _in_window(window, state, (start, start + length), hits)
    return step._replace(reset=start + length - now)


def _calendar_window(window: CalendarWindow, state: State | None, now: int, hits: int) -> Step:
    bounds = calendar_bounds(window, now // MILLISECONDS)
    start, end = bounds[0] * MILLISECONDS, bounds[1] * MILLISECONDS
    return _in_window(window, state, (start, end), hits)._replace(reset=end - now)


def _sliding_window(window: SlidingWindow, state: State | None, now: int, hits: int) -> Step:
    length = window.seconds * MILLISECONDS
    start, elapsed = now - now % length, now % length
    current = previous = 0
    if state is not None:
        if state[0] == start:
            _, current, previous = state
        elif state[0] == start - length:
            previous = state[1]
        elif state[0] == start + length:
            (start, current, previous), elapsed = state, 0
    used = current + mul_div(length - elapsed, previous, length, length - 1)
    if used + hits <= window.requests:
        return Step((start, current + hits, previous), True, window.requests - used - hits, length - elapsed)
    return Step((start, current, previous), False, 0, length - elapsed)


def _sliding_log(log: SlidingLog, state: State | None, now: int, hits: int) -> Step:
    length = log.seconds * MILLISECONDS
    entries = state or ()
    if entries and entries[-2] > now:
        entries, now = (entries, entries[-2]) if entries[-2] <= now + length else ((), now)
    first = next((place for place in range(0, len(entries), 2) if entries[place] > now - length), len(entries))
    entries = entries[first:]
    used = sum(entries[1::2])
    allowed = used + hits <= log.requests
    if allowed and hits:
        same = bool(entries) and entries[-2] == now
        entries = (*entries[:-1], entries[-1] + hits) if same else (*entries, now, hits)
        used += hits
    reset = entries[0] + length - now if entries else length
    return Step(entries, allowed, log.requests - used if allowed else 0, reset)


def _token_bucket(bucket: TokenBucket, state: State | None, now: int, hits: int) -> Step:
    length, requests = bucket.seconds * MILLISECONDS, bucket.requests
    burst = bucket.burst if requests else 0
    filled, tokens, part = now, burst, 0
    if state is not None and state[0] > now and state[0] - now <= length:
        filled, tokens, part = state
    elif state is not None and state[0] <= now and requests:
        windows, rest = divmod(now - state[0], length)
        if windows < -(-burst // requests):
            flowed = windows * requests + mul_div(rest, requests, length, state[2])
            tokens, part = state[1] + flowed, (rest * requests + state[2]) % length
    if tokens >= burst:
        tokens, part = burst, 0
    allowed = hits <= tokens
    if allowed:
        tokens -= hits
    wanted = burst if allowed else min(hits, burst)
    reset = mul_div(length, wanted - tokens, requests, requests - 1 - part) if requests else length
    return Step((filled, tokens, part), allowed, tokens if allowed else 0, min(max(reset, 0), MAX_RESET))


def _concurrency(limit: Concurrency, state: State | None, now: int, hits: int) -> Step:
    length = limit.seconds * MILLISECONDS
    part = slot_part(length)
    end = -(-(now + length) // part) * part
    slots: list[int] = []
    used, given_back = 0, max(0, -hits)
    for place in range(0, len(state or ()), 2):
        ends, taken = (state or ())[place : place + 2]
        held = now < ends <= end + length
        back = min(taken, given_back) if held else taken
        if held:
            given_back -= back
        if taken > back:
            used += taken - back
            _append(slots, min(ends, end), taken - back)
    allowed = hits <= 0 or used + hits <= limit.requests
    if allowed and hits > 0:
        used += hits
        _append(slots, end, hits)
    reset = slots[0] - now if slots else length
    return Step(tuple(slots), allowed, max(0, limit.requests - used) if allowed else 0, reset)


def _append(pairs: list[int], key: int, amount: int) -> None:
    if pairs and pairs[-2] == key:
        pairs[-1] += amount
    else:
        pairs += (key, amount)


def _total(total: Total, state: State | None, _now: int, hits: int) -> Step:
    counted = state[0] if state else 0
    allowed = counted + hits <= total.requests
    counted += hits if allowed else 0
    return Step((counted,), allowed, total.requests - counted if allowed else 0, MAX_RESET)


_STEPS: dict[type, Callable[[Any, State | None, int, int], Step]] = {
    FixedWindow: _fixed_window,
    CalendarWindow: _calendar_window,
    SlidingWindow: _sliding_window,
    SlidingLog: _sliding_log,
    TokenBucket: _token_bucket,
    Concurrency: _concurrency,
    Total: _total,
}
