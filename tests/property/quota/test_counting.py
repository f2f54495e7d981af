"""Laws of counting, whatever is asked in whatever order and however the clocks go."""

import asyncio
import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import InvalidInputError
from app.quota.backends.memory import MemoryCounters
from app.quota.backends.sketch import Sketch, digest_of
from app.quota.model import MAX_UINT32, Code, Descriptor, FixedWindow, Hit, RateLimit, Unit
from app.quota.rules.answer import judge
from app.quota.rules.parse import QUOTA_KIND
from app.quota.rules.window import count_hits, steady_offset
from tests.fakes.clock import ManualClock
from tests.fakes.quota import Quota

LIMIT = 7
WINDOW = FixedWindow(LIMIT, 60)


def new_service(unit, max_keys):
    clock = ManualClock()
    service = Quota(counters=MemoryCounters(clock, max_per_limit=max_keys), clock=clock)
    limit = {"unit": unit.name, "requests_per_unit": LIMIT}
    asyncio.run(service.put("d", {"domain": "d", "descriptors": [{"key": "k", "rate_limit": limit}]}))
    return service, clock


ASK = st.tuples(st.sampled_from("abc"), st.integers(0, 5))
STEP = st.lists(ASK, min_size=1, max_size=4)
MOVE = st.floats(-5, 5)


@given(st.lists(STEP | MOVE, max_size=40), st.sampled_from([Unit.SECOND, Unit.MINUTE]), st.integers(1, 3))
def test_no_window_allows_more_than_its_limit(steps, unit, max_keys):
    service, clock = new_service(unit, max_keys)
    elapsed, allowed = 0.0, {}
    furthest = start = clock.now().timestamp()
    for step in steps:
        if isinstance(step, float):
            clock.advance(step) if step > 0 else clock.turn_back(-step)
            elapsed += max(0.0, step)
            furthest = max(furthest, clock.now().timestamp())
            continue
        answer = service.ask("d", [Descriptor((("k", name),), hits) for name, hits in step], 0)
        over = [status.code is Code.OVER_LIMIT for status in answer.statuses]
        assert (answer.code is Code.OVER_LIMIT) == any(over)
        for (name, hits), status in zip(step, answer.statuses, strict=True):
            assert 0 <= status.remaining <= LIMIT
            assert 1 <= status.reset_seconds <= unit.value
            if status.code is Code.OK:
                allowed[name] = allowed.get(name, 0) + hits
    # Steady time ends between the real time that went by and the furthest the wall clock was, plus what went by since.
    windows = int((furthest - start + elapsed) // unit.value) + 2
    assert all(total <= LIMIT * windows for total in allowed.values())


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30))
def test_within_a_window_the_allowed_hits_never_exceed_the_limit(numbers):
    service, _ = new_service(Unit.DAY, 10)
    total = 0
    remaining = LIMIT
    for number in numbers:
        (status,) = service.ask("d", [Descriptor((("k", "a"),), number)], 0).statuses
        total += number if status.code is Code.OK else 0
        assert status.remaining <= remaining
        remaining = status.remaining
    assert total <= LIMIT


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9)), max_size=20), st.data())
def test_one_step_counts_what_single_steps_count(asked, data):
    hits = [Hit("limit", (name,), WINDOW, number) for name, number in asked]
    together, apart = MemoryCounters(ManualClock()), MemoryCounters(ManualClock())
    cut = data.draw(st.integers(0, len(hits)))
    assert together.add(hits[:cut]) + together.add(hits[cut:]) == [apart.add([hit])[0] for hit in hits]


@given(st.lists(st.tuples(st.floats(0, 300), st.integers(0, 9)), max_size=40))
def test_a_counter_agrees_with_the_sum_of_the_hits_in_its_window(steps):
    """Time goes forward by the first of each pair; the second are the hits."""
    clock, sums = ManualClock(), {}
    counters = MemoryCounters(clock)
    for passed, hits in steps:
        clock.advance(passed)
        window = int(clock.now().timestamp()) // 60
        (outcome,) = counters.add([Hit("limit", ("a",), WINDOW, hits)])
        sums[window] = sums.get(window, 0) + hits
        assert (outcome.allowed, outcome.remaining) == (sums[window] <= LIMIT, max(0, LIMIT - sums[window]))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 20)), max_size=60))
def test_the_store_never_holds_more_than_its_bounds(hits):
    """No limit has more counters than its share, and together they have no more than the store."""
    counters = MemoryCounters(ManualClock(), max_per_limit=6, max_counters=8)
    held: dict[str, set[int]] = {}
    for limit_id, name in hits:
        (outcome,) = counters.add([Hit(limit_id, (str(name),), FixedWindow(LIMIT, 86_400), 1)])
        if outcome.exact:
            held.setdefault(limit_id, set()).add(name)
        total = len([name for names in held.values() for name in names])
        assert counters.held == total <= 8
        assert all(len(names) <= 6 for names in held.values())
        if not outcome.exact:
            assert name not in held.get(limit_id, set())
            assert total == 8 or len(held[limit_id]) == 6


NAMED_HITS = st.tuples(st.sampled_from("xy"), st.integers(0, 5), st.integers(0, 9))
MOVES = st.sampled_from([1.0, 30.0, 61.0])


@given(st.lists(NAMED_HITS | MOVES, max_size=80), st.integers(0, 3), st.integers(0, 4))
def test_where_room_runs_out_nothing_is_granted_that_exact_counts_refuse(steps, max_per_limit, max_counters):
    """Nor do the hits of others ever give anything back: what is left to a key only shrinks until its window ends."""
    clock = ManualClock()
    bounded = MemoryCounters(clock, max_per_limit=max_per_limit, max_counters=max_counters)
    exact = MemoryCounters(clock)
    left: dict[tuple[str, int], int] = {}
    for step in steps:
        if isinstance(step, float):
            clock.advance(step)
            left.clear()
            continue
        limit_id, name, hits = step
        hit = Hit(limit_id, (str(name),), WINDOW if limit_id == "x" else FixedWindow(LIMIT, 86_400), hits)
        (outcome,), (expected,) = bounded.add([hit]), exact.add([hit])
        assert outcome.allowed <= expected.allowed
        assert outcome.remaining <= expected.remaining
        assert outcome.reset_seconds == expected.reset_seconds
        assert outcome.remaining <= left.get((limit_id, name), LIMIT)
        left[limit_id, name] = outcome.remaining


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 2**33)), max_size=60))
def test_a_sketch_is_never_below_the_sum_of_a_key(hits):
    sketch, sums = Sketch(2), dict[int, int]()
    for name, number in hits:
        places = sketch.places(digest_of((str(name),), b""))
        sketch.raise_to(places, sketch.count(places) + number)
        sums[name] = sums.get(name, 0) + number
        for known, total in sums.items():
            assert sketch.count(sketch.places(digest_of((str(known),), b""))) >= min(total, MAX_UINT32)


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0, 1e6)), min_size=1, max_size=30))
def test_steady_time_never_goes_back_and_is_never_behind_either_clock(moves):
    offset, wall, monotonic, last = float("-inf"), 1e9, 1e3, float("-inf")
    for step, passed in moves:
        wall, monotonic = wall + step, monotonic + passed
        offset = steady_offset(offset, wall, monotonic)
        now = monotonic + offset
        assert now >= wall - 1e-3
        assert now >= last + passed - 1e-3
        last = now


@given(st.integers(0, 2**40), st.sampled_from(Unit), st.integers(0, 2**32 - 1), st.integers(0, 2**33))
def test_an_answer_is_within_its_bounds(now, unit, number, count):
    limit = RateLimit(unit, number)
    status = judge(limit, count_hits(FixedWindow(number, unit.seconds), 0, now, count)[1])
    assert (status.code is Code.OVER_LIMIT) == (count > number)
    assert status.remaining == max(0, number - count)
    assert now + status.reset_seconds == (now // unit.value + 1) * unit.value


KEYS = st.lists(st.text(max_size=3), min_size=1, max_size=5).map(tuple)


@given(KEYS, KEYS, st.booleans())
def test_two_counters_are_one_only_if_their_keys_are(first, second, long):
    keys = [first, second]
    if long:
        keys = [(*key, "x" * 300) for key in keys]
    counters = MemoryCounters(ManualClock())
    outcomes = counters.add([Hit("limit", key, WINDOW, 1) for key in keys])
    assert [LIMIT - outcome.remaining for outcome in outcomes] == ([1, 2] if first == second else [1, 1])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["domain", "descriptors", "key", "value", "rate_limit", "unit", "name", "replaces", "x"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=30,
)


@given(st.dictionaries(st.sampled_from(["domain", "descriptors"]), JSON))
def test_any_document_is_read_or_refused_with_its_violations(document):
    with suppress(InvalidInputError):
        (config,) = QUOTA_KIND.parse([document])
        domain = document["domain"]
        assert config.domain == (json.dumps(domain) if isinstance(domain, bool) else str(domain))
        return
    with pytest.raises(InvalidInputError) as caught:
        QUOTA_KIND.parse([document])
    assert caught.value.violations
