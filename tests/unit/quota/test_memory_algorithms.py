"""Counters in memory whose algorithm lets each of them end by itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.quota.backends.memory import MIN_LIMIT_SLOTS, MemoryCounters
from app.quota.model import (
    CalendarWindow,
    Concurrency,
    FixedWindow,
    Hit,
    SlidingLog,
    SlidingWindow,
    TokenBucket,
    Total,
    Unit,
)
from app.quota.rules.counting import count, lifetime
from app.quota.rules.joint import AllOrNone
from tests.fakes.clock import ManualClock

MINUTE = 60
ENDING = [
    SlidingWindow(3, MINUTE),
    SlidingLog(3, MINUTE),
    TokenBucket(3, MINUTE, 3),
    Concurrency(3, MINUTE),
]
ALL = [*ENDING, Total(3), FixedWindow(3, MINUTE), CalendarWindow(3, Unit.DAY, "Europe/Zurich")]


def hit(algorithm, key="k", hits=1, limit_id="limit"):
    return Hit(limit_id, (key,), algorithm, hits)


def allowed(counters, *hits):
    return [outcome.allowed for outcome in counters.add(hits)]


@pytest.mark.parametrize("algorithm", ALL, ids=lambda each: type(each).__name__)
class TestEveryAlgorithm:
    def test_the_limit_is_admitted_and_no_more(self, algorithm, clock):
        counters = MemoryCounters(clock)
        assert allowed(counters, *[hit(algorithm)] * 5) == [True] * 3 + [False] * 2

    def test_keys_and_limits_are_counted_apart(self, algorithm, clock):
        counters = MemoryCounters(clock)
        others = [hit(algorithm, "other", 3), hit(algorithm, hits=3, limit_id="other")]
        assert allowed(counters, hit(algorithm, hits=3), *others, hit(algorithm)) == [True, True, True, False]

    def test_a_probe_counts_nothing_and_takes_no_room(self, algorithm, clock):
        counters = MemoryCounters(clock)
        assert allowed(counters, *[hit(algorithm, hits=0)] * 9, hit(algorithm, hits=3)) == [True] * 10
        assert counters.held == 1

    async def test_a_deleted_limit_is_freed(self, algorithm, clock):
        counters = MemoryCounters(clock)
        counters.add([hit(algorithm, hits=3), hit(algorithm, hits=3, limit_id="kept")])
        await counters.retain({"kept"})
        assert counters.held == 1
        assert allowed(counters, hit(algorithm), hit(algorithm, limit_id="kept")) == [True, False]


@pytest.mark.parametrize("algorithm", ENDING, ids=lambda each: type(each).__name__)
class TestEnding:
    def test_counters_that_are_not_used_are_freed(self, algorithm, clock):
        counters = MemoryCounters(clock)
        counters.add([hit(algorithm, str(number)) for number in range(100)])
        for _ in range(2):
            clock.advance((lifetime(algorithm) or 0) / 1000 + 1)
            counters.add([hit(algorithm, "another", 0, "other")])
        assert counters.held == 0

    def test_a_counter_that_is_used_is_kept(self, algorithm, clock):
        counters = MemoryCounters(clock)
        step = (lifetime(algorithm) or 0) / 8000  # more than three hits a minute of each
        allowed(counters, hit(algorithm, "another"))
        clock.advance(5.5 * step)  # so that counters are freed between hits that are counted together
        decided = []
        state, now = None, int(clock.now().timestamp() * 1000)
        for _ in range(40):
            counted = count(algorithm, state, now, 1)
            state = counted.state if counted.allowed else state
            decided.append(counted.allowed)
            assert allowed(counters, hit(algorithm)) == decided[-1:]
            clock.advance(step)
            now = int(clock.now().timestamp() * 1000)
        assert {True, False} == set(decided[20:])  # long after the lifetime of a counter that is forgotten

    def test_keys_without_room_share_counters_and_get_no_more_than_their_limit(self, algorithm, clock):
        counters = MemoryCounters(clock, max_per_limit=10)
        for number in range(1000):
            counters.add([hit(algorithm, str(number))])
        assert counters.held <= 10 + MIN_LIMIT_SLOTS + 16 * 1024
        outcomes = counters.add([hit(algorithm, "999")] * 3)
        assert [outcome.exact for outcome in outcomes] == [False] * 3
        assert [outcome.allowed for outcome in outcomes].count(True) <= 2
        assert allowed(counters, *[hit(algorithm, "0")] * 3) == [True, True, False]

    def test_a_flood_of_one_limit_leaves_the_others_their_room(self, algorithm, clock):
        counters = MemoryCounters(clock, max_per_limit=10, max_counters=20)
        counters.add([hit(algorithm, str(number)) for number in range(1000)])
        assert allowed(counters, *[hit(algorithm, "mine", limit_id="other")] * 4) == [True] * 3 + [False]

    def test_a_shared_counter_does_not_forget_when_there_is_room_again(self, algorithm, clock):
        counters = MemoryCounters(clock, max_per_limit=1)
        assert allowed(counters, hit(algorithm, "first"), *[hit(algorithm, "k")] * 4) == [True] * 4 + [False]
        counters._max_per_limit = 100
        assert allowed(counters, hit(algorithm, "k")) == [False]


@pytest.mark.parametrize("algorithm", ALL, ids=lambda each: type(each).__name__)
def test_hits_that_are_refused_with_others_report_when_they_would_be_allowed(algorithm, clock):
    counters, alone = MemoryCounters(clock), MemoryCounters(clock)
    for each in (counters, alone):
        each.add([hit(algorithm, hits=3)])
    clock.advance(7)
    prepared = counters.prepare([hit(algorithm), hit(FixedWindow(5, MINUTE), limit_id="other")])
    for _ in range(2):
        refused, other = counters.count(prepared, AllOrNone([True, True]))
        assert (refused, other.remaining) == (alone.add([hit(algorithm)])[0], 5)
    assert counters.held == alone.held


def test_a_total_is_never_freed(clock):
    counters = MemoryCounters(clock)
    assert allowed(counters, *[hit(Total(3))] * 4) == [True] * 3 + [False]
    clock.advance(10 * 365 * 86_400)
    assert allowed(counters, hit(Total(3))) == [False]


STEPS = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 4), st.integers(0, 90)), min_size=1, max_size=60)


@given(st.sampled_from(ALL), STEPS, st.integers(0, 4))
def test_no_room_never_grants_more_than_an_exact_count(algorithm, steps, room):
    """And with enough of it the decisions are those of the exact count."""
    clock = ManualClock()
    counters = MemoryCounters(clock, max_per_limit=room)
    exact = MemoryCounters(clock)
    granted = {}
    for key, hits, seconds in steps:
        clock.advance(seconds)
        (outcome,), (reference,) = counters.add([hit(algorithm, key, hits)]), exact.add([hit(algorithm, key, hits)])
        if room >= 4 and len({each for each, _, _ in steps}) <= 4:
            assert outcome == reference
        granted.setdefault(key, []).append((clock.monotonic(), hits if outcome.allowed else 0))
        if isinstance(algorithm, SlidingLog | Concurrency):
            recent = [number for when, number in granted[key] if clock.monotonic() - when < MINUTE]
            assert sum(recent) <= algorithm.requests
