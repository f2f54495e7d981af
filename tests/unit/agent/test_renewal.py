"""When the agent asks for a certificate."""

from datetime import UTC, datetime, timedelta

import pytest

from app.agent.renewal import FIRST_BACKOFF, LAST_BACKOFF, MAX_WAIT, Action, Need, Renewal

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


def held(ttl=HOUR, chance=0.5):
    return Renewal().held(NOW + ttl, NOW, chance)


def test_without_an_identity_a_token_is_redeemed_at_once():
    assert Renewal().next(NOW, 0, token=True) == Action(Need.ENROL)


def test_without_an_identity_and_a_token_one_is_needed():
    assert Renewal().next(NOW, 0, token=False).need is Need.TOKEN


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.45), (0.5, 0.5), (1.0, 0.55)])
def test_renewal_is_at_half_of_the_time_left_moved_by_a_tenth(chance, share):
    assert held(chance=chance).renew_at == NOW + HOUR * share


def test_a_certificate_in_the_first_half_of_its_life_is_not_renewed_and_waits_are_bounded():
    assert held().next(NOW, 0, token=True) == Action(Need.WAIT, MAX_WAIT)
    assert held().next(NOW + timedelta(minutes=29, seconds=50), 0, token=False) == Action(Need.WAIT, 10.0)


def test_at_half_life_it_is_renewed():
    assert held().next(NOW + timedelta(minutes=30), 0, token=False) == Action(Need.RENEW)


def test_an_expired_certificate_cannot_renew_itself_and_needs_a_token():
    assert held().next(NOW + HOUR, 0, token=False) == Action(Need.TOKEN, MAX_WAIT)
    assert held().next(NOW + HOUR, 0, token=True) == Action(Need.ENROL)


def test_expiry_is_noticed_at_its_second_even_in_the_middle_of_a_backoff():
    state = held(timedelta(seconds=20))
    for _ in range(10):
        state = state.failed(0, 0)
    assert state.next(NOW + timedelta(seconds=15), 0, token=False) == Action(Need.WAIT, 5.0)


def test_failures_wait_twice_as_long_each_time_up_to_a_minute():
    state, waits = held(), []
    for _ in range(40):
        state = state.failed(100.0, 0)
        waits.append(state.retry_at - 100.0)
    assert waits[:4] == [FIRST_BACKOFF, 1.0, 2.0, 4.0]
    assert waits[-1] == LAST_BACKOFF == max(waits)


def test_jitter_shortens_a_wait_and_never_removes_it():
    assert 0 < Renewal().failed(0, 0.999).retry_at < Renewal().failed(0, 0).retry_at


def test_an_attempt_waits_for_the_end_of_its_backoff():
    state = held().failed(100.0, 0)
    due = NOW + timedelta(minutes=40)
    action = state.next(due, 100.2, token=False)
    assert action == Action(Need.WAIT, action.seconds)
    assert action.seconds == pytest.approx(0.3)
    assert state.next(due, 100.5, token=False) == Action(Need.RENEW)
    assert Renewal().failed(100.0, 0).next(NOW, 100.0, token=True).need is Need.WAIT


def test_success_resets_the_backoff():
    state = held().failed(0, 0).failed(0, 0).held(NOW + HOUR, NOW, 0.5)
    assert state == held()


def test_a_clock_set_back_does_not_stretch_a_backoff():
    state = held(timedelta(days=30)).failed(100.0, 0)
    assert state.next(NOW - timedelta(days=5), 100.5, token=False).seconds <= MAX_WAIT


def test_a_certificate_that_ends_immediately_does_not_cause_attempts_without_a_pause():
    state = Renewal().held(NOW + timedelta(milliseconds=10), NOW, 0.5)
    assert state.renew_at == NOW + timedelta(seconds=1)
