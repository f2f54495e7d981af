"""Token buckets: a burst, a refill, one bucket for each key, and a bound on their number."""

from hypothesis import given
from hypothesis import strategies as st

from app.core.rates import MAX_BUCKETS, Buckets, RateLimit
from tests.fakes.clock import ManualClock

ONE = RateLimit(per_second=1, burst=1)


def test_a_bucket_has_a_burst_and_refills_with_time():
    clock = ManualClock()
    buckets, limit = Buckets(clock.monotonic), RateLimit(per_second=2, burst=3)
    assert [buckets.take("a", limit) for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("b", limit) == 0
    clock.advance(0.25)
    assert buckets.take("a", limit) == 0.25
    clock.advance(0.25)
    assert [buckets.take("a", limit) for _ in range(2)] == [0, 0.5]
    clock.advance(3600)
    assert [buckets.take("a", limit) for _ in range(4)] == [0, 0, 0, 0.5]


def test_a_token_that_was_given_back_can_be_taken_again():
    buckets = Buckets(ManualClock().monotonic)
    buckets.give_back("unknown")
    assert buckets.take("a", ONE) == 0
    buckets.give_back("a")
    assert [buckets.take("a", ONE) for _ in range(2)] == [0, 1]


def test_the_bucket_that_was_idle_longest_is_dropped_when_there_are_too_many():
    buckets = Buckets(ManualClock().monotonic)
    for index in range(MAX_BUCKETS):
        buckets.take(index, ONE)
    assert buckets.take("one more", ONE) == 0
    assert buckets.take(0, ONE) == 0
    assert buckets.take(MAX_BUCKETS - 1, ONE) == 1


steps = st.lists(st.one_of(st.just("take"), st.just("give back"), st.floats(0, 10)), max_size=60)


@given(steps, st.floats(0.1, 5), st.integers(1, 5))
def test_no_more_is_taken_than_the_burst_and_what_the_time_refills(steps, per_second, burst):
    clock = ManualClock()
    buckets, limit, taken = Buckets(clock.monotonic), RateLimit(per_second, burst), 0
    for step in steps:
        if step == "take":
            taken += buckets.take("a", limit) == 0
        elif step == "give back":
            if taken:
                taken -= 1
                buckets.give_back("a")
        else:
            clock.advance(step)
    assert taken <= burst + per_second * (clock.monotonic() - 1000) + 1e-6
