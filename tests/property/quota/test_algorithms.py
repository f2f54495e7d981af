"""Each algorithm against an exact model: never more than the limit admits, never less than it guarantees."""

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.quota.model import (
    CalendarWindow,
    Concurrency,
    FixedWindow,
    SlidingLog,
    SlidingWindow,
    TokenBucket,
    Total,
    Unit,
)
from app.quota.rules.counting import MAX_RESET, SLOT_PARTS, count, lifetime, mul_div, slot_part
from app.quota.rules.window import calendar_bounds
from tests.support.algorithms import START, sequences, set_back, state_after

SMALL = st.integers(0, 6)
SECONDS = st.integers(1, 4)
# Milliseconds since the last hits, which clocks that go forward alone have; and how many they are.
STEPS = st.lists(st.tuples(st.integers(0, 3000) | st.sampled_from([0, 1, 999, 1000]), st.integers(0, 7)), max_size=40)


def run(algorithm, steps):
    """Each step with its time: (now, hits, what was decided)."""
    state, now, done = None, START, []
    for moved, hits in steps:
        now += moved
        step = count(algorithm, state, now, hits)
        state = state_after(algorithm, state, step, hits)
        done.append((now, hits, step))
    return done


def admitted(done, since, until):
    """The hits that were allowed after `since`, up to `until`."""
    return sum(hits for now, hits, step in done if step.allowed and since < now <= until)


@given(st.builds(FixedWindow, SMALL, SECONDS, st.booleans()), STEPS)
def test_a_fixed_window_admits_its_limit_and_refuses_what_exceeds_it(window, steps):
    length = window.seconds * 1000
    counted = {}
    for now, hits, step in run(window, steps):
        start = now - now % length
        before = counted.get(start, 0)
        assert step.allowed == (before + hits <= window.requests)
        assert step.reset == start + length - now
        if step.allowed or window.counts_refused:
            counted[start] = before + hits
        assert step.remaining == (window.requests - before - hits if step.allowed else 0)


@given(st.builds(SlidingLog, SMALL, SECONDS), STEPS)
def test_a_sliding_log_is_exact(log, steps):
    done = []
    for now, hits, step in run(log, steps):
        used = admitted(done, now - log.seconds * 1000, now)
        assert step.allowed == (used + hits <= log.requests)
        assert step.remaining == (log.requests - used - hits if step.allowed else 0)
        done.append((now, hits, step))


@given(st.builds(SlidingWindow, SMALL, SECONDS), STEPS)
def test_a_sliding_window_weighs_the_one_before(window, steps):
    length = window.seconds * 1000
    done = []
    for now, hits, step in run(window, steps):
        start = now - now % length
        current = admitted(done, start - 1, now)
        before = admitted(done, start - length - 1, start - 1)
        used = current + Fraction(before * (start + length - now), length)
        assert step.allowed == (used + hits <= window.requests)
        if not step.allowed:  # a caller with less than the limit in two windows is never refused
            assert current + before + hits > window.requests
        done.append((now, hits, step))
        assert admitted(done, start - 1, now) <= window.requests
        assert admitted(done, now - length, now) < max(1, 2 * window.requests)


@given(
    st.builds(TokenBucket, SMALL, SECONDS, SMALL) | st.builds(TokenBucket, st.integers(0, 10**6), SECONDS, SMALL), STEPS
)
def test_a_token_bucket_is_exact(bucket, steps):
    length = bucket.seconds * 1000
    burst = bucket.burst if bucket.requests else 0
    level, last = Fraction(burst), START
    done = []
    for now, hits, step in run(bucket, steps):
        level = min(Fraction(burst), level + Fraction((now - last) * bucket.requests, length))
        last = now
        assert step.allowed == (hits <= level)
        if step.allowed:
            level -= hits
            assert step.remaining == int(level)
        done.append((now, hits, step))
        for since in {when for when, _, _ in done}:
            assert admitted(done, since - 1, now) <= burst + Fraction((now - since) * bucket.requests, length)


@given(
    st.builds(Concurrency, SMALL, SECONDS), st.lists(st.tuples(st.integers(0, 1500), st.integers(-4, 7)), max_size=40)
)
def test_concurrency_never_has_more_slots_than_its_limit(limit, steps):
    length = limit.seconds * 1000
    longest = length + slot_part(length)
    taken = []  # when each slot that was not given back was taken, the oldest first
    for now, hits, step in run(limit, steps):
        certain = [when for when in taken if now - when < length]
        possible = [when for when in taken if now - when < longest]
        if hits < 0:
            if len(possible) > len(certain):
                return  # whether the oldest slot had ended by itself is not exact: any model is right
            taken = possible[-hits:]
            assert step.allowed
        elif step.allowed:
            assert len(certain) + hits <= limit.requests or hits == 0
            taken += [now] * hits
        else:
            assert len(possible) + hits > limit.requests
        assert len(step.state) <= 2 * (SLOT_PARTS + 2)


@given(st.builds(Total, SMALL), STEPS)
def test_a_total_is_admitted_once(total, steps):
    used = 0
    for _, hits, step in run(total, steps):
        assert step.allowed == (used + hits <= total.requests)
        used += hits if step.allowed else 0
    assert used <= total.requests


@given(sequences())
def test_a_reset_is_when_the_same_would_be_allowed(sequence):
    algorithm, steps = sequence
    state, now = None, START
    for moved, hits in steps:
        now += abs(moved)
        step = count(algorithm, state, now, hits)
        state = state_after(algorithm, state, step, hits)
        most = min(algorithm.requests, algorithm.burst) if isinstance(algorithm, TokenBucket) else algorithm.requests
        exact = isinstance(algorithm, FixedWindow | CalendarWindow | TokenBucket)
        if exact and not step.allowed and 0 < hits <= most and 0 < step.reset < MAX_RESET:
            assert count(algorithm, state, now + step.reset, hits).allowed
            assert not count(algorithm, state, now + step.reset - 1, hits).allowed


@given(st.builds(TokenBucket, st.integers(1, 9), SECONDS, st.integers(1, 9)), STEPS)
def test_a_bucket_has_the_tokens_at_its_reset_and_not_before(bucket, steps):
    state, now = None, START
    for moved, hits in steps:
        now += moved
        step = count(bucket, state, now, hits)
        state = step.state if step.allowed else state
        if not step.allowed and hits <= bucket.burst:
            assert count(bucket, state, now + step.reset, hits).allowed
            assert not count(bucket, state, now + step.reset - 1, hits).allowed


@given(sequences())
def test_counts_are_never_negative_and_states_are_bounded(sequence):
    algorithm, steps = sequence
    state, now = None, START
    for moved, hits in steps:
        now += moved
        step = count(algorithm, state, now, hits)
        assert step.remaining >= 0
        assert all(number >= 0 for number in step.state or ())
        assert len(step.state or ()) <= max(66, 2 * min(algorithm.requests, 1000))
        state = state_after(algorithm, state, step, hits)


@given(sequences(), st.integers(1, 9))
def test_a_state_that_was_not_written_for_its_lifetime_is_that_of_a_new_counter(sequence, hits):
    algorithm, steps = sequence
    if isinstance(algorithm, Total):
        assert lifetime(algorithm) is None
        return
    if lifetime(algorithm) == MAX_RESET:  # a bucket that takes more than a century to fill
        return
    state, now = None, START
    for moved, each in steps:
        now += abs(moved)
        state = count(algorithm, state, now, each).state
    now += lifetime(algorithm) or 0
    kept, new = count(algorithm, state, now, hits), count(algorithm, None, now, hits)
    assert (kept.allowed, kept.remaining, kept.reset) == (new.allowed, new.remaining, new.reset)


@given(set_back())
@example((SlidingWindow(1, 773), [(0, 1), (131_000, 1)], 1_546_000))
@example((Concurrency(1, 2), [(0, 1)], 2_063))
def test_a_counter_waits_for_a_clock_that_was_set_back_for_a_window_at_most(case):
    algorithm, steps, back = case
    life = lifetime(algorithm)
    if life is None:
        return
    state, now, counted = None, START, START
    for moved, hits in steps:
        now += abs(moved)
        before, state = state, state_after(algorithm, state, count(algorithm, state, now, hits), hits)
        left = count(algorithm, state, now, 0).remaining
        state = state_after(algorithm, state, count(algorithm, state, now, left), left)
        counted = counted if state is before else now
    now -= back
    least = min(1, getattr(algorithm, "burst", 1), algorithm.requests)
    step = count(algorithm, state, now, least)
    if step.allowed:
        return
    length = life if isinstance(algorithm, CalendarWindow) else algorithm.seconds * 1000
    assert counted - now < 2 * length  # the window of the last hit begins within one
    state = state_after(algorithm, state, step, least)
    assert count(algorithm, state, now + length + life, least).allowed


@given(st.integers(0, 2**35 - 1), st.integers(0, 2**32 - 1), st.integers(1, 2**35 - 1), st.integers(0, 2**35 - 1))
def test_mul_div_is_exact(left, right, divisor, extra):
    assert mul_div(left, right, divisor, extra) == (left * right + extra) // divisor


ZONES = [
    "UTC",
    "Europe/Zurich",
    "America/New_York",
    "Asia/Kathmandu",
    "Pacific/Apia",
    "America/Sao_Paulo",
    "Africa/Cairo",
]


@given(st.integers(0, 2**31), st.sampled_from([Unit.DAY, Unit.WEEK, Unit.MONTH, Unit.YEAR]), st.sampled_from(ZONES))
def test_calendar_windows_follow_each_other_and_hold_one_period(now, unit, zone):
    window = CalendarWindow(1, unit, zone)
    start, end = calendar_bounds(window, now)
    assert start <= now < end
    assert calendar_bounds(window, end)[0] == end
    assert calendar_bounds(window, start) == (start, end)
    assert calendar_bounds(window, start - 1)[1] == start
    first, last = (datetime.fromtimestamp(when, UTC).astimezone(ZoneInfo(zone)) for when in (start, end - 1))
    same = {
        Unit.DAY: lambda day: day.date(),
        Unit.WEEK: lambda day: day.isocalendar()[:2],
        Unit.MONTH: lambda day: (day.year, day.month),
        Unit.YEAR: lambda day: day.year,
    }[unit]
    assert same(first) == same(last)
    assert same(first - timedelta(hours=1)) != same(first)


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-06-01", 24)])
def test_days_are_as_long_as_they_are_in_their_zone(day, hours):
    noon = datetime.fromisoformat(f"{day}T12:00:00").replace(tzinfo=ZoneInfo("Europe/Zurich"))
    start, end = calendar_bounds(CalendarWindow(1, Unit.DAY, "Europe/Zurich"), int(noon.timestamp()))
    assert end - start == hours * 3600
