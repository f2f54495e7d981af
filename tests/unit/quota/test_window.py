"""Fixed windows, aligned to the epoch."""

import pytest

from app.quota.model import MAX_UINT32, Code, RateLimit, Unit, Unlimited
from app.quota.rules.window import hits_of, judge, overall, steady_offset, window_start

LIMIT = RateLimit(Unit.MINUTE, 10)


@pytest.mark.parametrize("unit", list(Unit))
def test_windows_start_at_multiples_of_the_unit(unit):
    start = window_start(1_800_000_123, unit.value)
    assert start % unit.value == 0
    assert start <= 1_800_000_123 < start + unit.value
    assert window_start(start, unit.value) == start
    assert window_start(start + unit.value, unit.value) == start + unit.value


@pytest.mark.parametrize(
    ("count", "code", "remaining"),
    [(1, Code.OK, 9), (10, Code.OK, 0), (11, Code.OVER_LIMIT, 0), (2**70, Code.OVER_LIMIT, 0), (0, Code.OK, 10)],
)
def test_over_the_limit_is_what_exceeds_it(count, code, remaining):
    status = judge(LIMIT, count, now=0)
    assert (status.code, status.remaining) == (code, remaining)


def test_a_limit_of_zero_lets_nothing_pass():
    assert judge(RateLimit(Unit.DAY, 0), 1, now=0).code is Code.OVER_LIMIT


@pytest.mark.parametrize(("now", "reset"), [(0, 60), (1, 59), (59, 1), (60, 60), (1_800_000_123, 57)])
def test_the_reset_is_the_rest_of_the_window_and_never_zero(now, reset):
    assert judge(LIMIT, 1, now).reset_seconds == reset


def test_a_shadow_limit_counts_and_passes():
    shadow = RateLimit(Unit.MINUTE, 10, shadow_mode=True)
    status = judge(shadow, 11, now=0)
    assert (status.code, status.limit, status.remaining) == (Code.OK, shadow, 0)


def test_what_cannot_be_counted_is_not_granted():
    status = judge(LIMIT, None, now=0)
    assert (status.code, status.counted) == (Code.OVER_LIMIT, False)


def test_unlimited_and_no_limit_pass_without_a_limit_to_tell():
    assert judge(None, 0, now=0) == (Code.OK, None, 0, 0, True)
    assert judge(Unlimited(), 0, now=0) == (Code.OK, None, MAX_UINT32, 0, True)


def test_one_descriptor_over_its_limit_is_enough():
    passing, over = judge(LIMIT, 1, now=0), judge(LIMIT, 11, now=0)
    assert overall((passing, passing)) is Code.OK
    assert overall((passing, over, passing)) is Code.OVER_LIMIT


@pytest.mark.parametrize(
    ("descriptor", "request_hits", "expected"),
    [(None, 0, 1), (None, 1, 1), (None, 5, 5), (0, 5, 0), (3, 5, 3), (0, 0, 0)],
)
def test_a_descriptors_own_hits_come_first_and_zero_is_a_probe(descriptor, request_hits, expected):
    assert hits_of(descriptor, request_hits) == expected


def test_steady_time_follows_the_clock_forward_and_not_back():
    offset = steady_offset(float("-inf"), wall=1000.0, monotonic=10.0)
    assert 10.0 + offset == 1000.0
    offset = steady_offset(offset, wall=1005.0, monotonic=11.0)  # a step forward
    assert 11.0 + offset == 1005.0
    offset = steady_offset(offset, wall=905.0, monotonic=12.0)  # a step back
    assert 12.0 + offset == 1006.0
    offset = steady_offset(offset, wall=2000.0, monotonic=13.0)
    assert 13.0 + offset == 2000.0
