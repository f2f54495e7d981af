"""A wall clock that is not believed before it has kept its time."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from app.core.clock import CONFIRM_SECONDS, MAX_STEP_SECONDS, ConfirmedClock, SystemClock
from tests.fakes.clock import ManualClock

DAY = 24 * 3600
JUMPS = [250 * DAY, -250 * DAY, MAX_STEP_SECONDS + 1, -MAX_STEP_SECONDS - 1]


@pytest.fixture
def machine():
    return ManualClock()


@pytest.fixture
def clock(machine):
    return ConfirmedClock(machine)


@pytest.mark.parametrize("seconds", JUMPS)
def test_a_step_that_is_taken_back_leaves_the_time_as_it_would_have_been(machine, clock, seconds):
    start = clock.now()
    machine.turn_forward(seconds)
    for passed in (1, 2, 3):
        machine.advance(1)
        assert clock.now() == start + timedelta(seconds=passed)
    machine.turn_back(seconds)
    assert clock.now() == machine.now() == start + timedelta(seconds=3)


@pytest.mark.parametrize("seconds", JUMPS)
def test_a_step_that_lasts_is_followed_and_both_are_logged_once(machine, clock, seconds):
    with capture_logs() as logs:
        machine.turn_forward(seconds)
        for _ in range(int(CONFIRM_SECONDS)):
            assert clock.now() != machine.now()
            machine.advance(1)
        assert clock.now() == machine.now()
        machine.advance(1)
        assert clock.now() == machine.now()
    assert [(log["event"], log["seconds"]) for log in logs] == [
        ("clock_stepped", round(seconds)),
        ("clock_step_followed", round(seconds)),
    ]


def test_a_clock_that_keeps_stepping_is_never_followed(machine, clock):
    start = clock.now()
    for minute in range(1, 100):
        machine.turn_forward(DAY)
        machine.advance(CONFIRM_SECONDS / 2)
        assert clock.now() == start + timedelta(seconds=minute * CONFIRM_SECONDS / 2)


@pytest.mark.parametrize("seconds", [MAX_STEP_SECONDS, -MAX_STEP_SECONDS, 0.5])
def test_what_ntp_corrects_is_followed_at_once(machine, clock, seconds):
    machine.turn_forward(seconds)
    assert clock.now() == machine.now()


@given(st.lists(st.tuples(st.floats(-400 * DAY, 400 * DAY), st.floats(0, CONFIRM_SECONDS - 1)), max_size=20))
def test_no_series_of_steps_moves_it_faster_than_time_and_small_corrections_do(steps):
    """Each step is gone before it is confirmed, and the clock is then read at its right time."""
    machine = ManualClock()
    clock, start = ConfirmedClock(machine), machine.now()
    for step, seconds in steps:
        machine.turn_forward(step)
        clock.now()
        machine.advance(seconds)
        clock.now()
        machine.turn_back(step)
        assert abs(clock.now() - machine.now()) < timedelta(milliseconds=1)
    assert machine.monotonic() - 1000 == pytest.approx((clock.now() - start).total_seconds(), abs=0.01)


def test_the_machines_clock_goes_on():
    clock = SystemClock()
    first = clock.monotonic()
    assert clock.monotonic() >= first
    assert ConfirmedClock(clock).monotonic() >= first
