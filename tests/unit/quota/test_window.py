"""Fixed windows, aligned to the epoch."""

import pytest

from app.quota.model import FixedWindow, RateLimit, Unit
from app.quota.rules.algorithms import algorithm_of
from app.quota.rules.window import count_hits, steady_offset, window_end

WINDOW = FixedWindow(10, 60)


def outcome_of(count, now=0, window=WINDOW):
    return count_hits(window, 0, now, count)[1]


@pytest.mark.parametrize("unit", list(Unit))
def test_windows_start_at_multiples_of_the_unit(unit):
    window = algorithm_of(RateLimit(unit, 5))
    assert window == FixedWindow(5, unit.value)
    end = window_end(window, 1_800_000_123)
    assert end % unit.value == 0
    assert end - unit.value <= 1_800_000_123 < end
    assert window_end(window, end - unit.value) == end
    assert window_end(window, end) == end + unit.value


@pytest.mark.parametrize(
    ("count", "allowed", "remaining"),
    [(1, True, 9), (10, True, 0), (11, False, 0), (2**70, False, 0), (0, True, 10)],
)
def test_over_the_limit_is_what_exceeds_it(count, allowed, remaining):
    outcome = outcome_of(count)
    assert (outcome.allowed, outcome.remaining) == (allowed, remaining)


def test_a_limit_of_zero_refuses_everything():
    assert not outcome_of(1, window=FixedWindow(0, Unit.DAY.value)).allowed


@pytest.mark.parametrize(("now", "reset"), [(0, 60), (1, 59), (59, 1), (60, 60), (1_800_000_123, 57)])
def test_the_reset_is_the_rest_of_the_window_and_never_zero(now, reset):
    assert outcome_of(1, now).reset_seconds == reset


def test_hits_add_up():
    counted, _ = count_hits(WINDOW, 0, 61, 4)
    counted, outcome = count_hits(WINDOW, counted, 119, 3)
    assert (counted, outcome.remaining) == (7, 3)


def test_a_probe_changes_nothing():
    assert count_hits(WINDOW, 7, 61, 0)[0] == 7


def test_steady_time_follows_the_clock_forward_and_not_back():
    offset = steady_offset(float("-inf"), wall=1000.0, monotonic=10.0)
    assert 10.0 + offset == 1000.0
    offset = steady_offset(offset, wall=1005.0, monotonic=11.0)  # a step forward
    assert 11.0 + offset == 1005.0
    offset = steady_offset(offset, wall=905.0, monotonic=12.0)  # a step back
    assert 12.0 + offset == 1006.0
    offset = steady_offset(offset, wall=2000.0, monotonic=13.0)
    assert 13.0 + offset == 2000.0
