"""Laws of the renewal schedule, over every order of successes, failures and clock jumps."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from app.agent.renewal import LAST_BACKOFF, MAX_WAIT, Need, Renewal

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
chances = st.floats(0, 1, exclude_max=True)
jumps = st.timedeltas(timedelta(days=-400), timedelta(days=400))
ticks = st.floats(0, 1e6)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("held"), st.timedeltas(timedelta(0), timedelta(days=400)), chances),
        st.tuples(st.just("failed"), ticks, chances),
    ),
    max_size=20,
)


@given(steps, jumps, ticks, st.booleans())
def test_there_is_always_a_next_step_and_no_wait_is_long_or_negative(story, jump, tick, token):
    state = Renewal()
    for kind, value, chance in story:
        state = state.held(NOW + value, NOW, chance) if kind == "held" else state.failed(value, chance)
    now = NOW + jump
    action = state.next(now, tick, token=token)
    assert 0 <= action.seconds <= MAX_WAIT
    valid = state.not_after is not None and now < state.not_after
    assert (action.need is Need.RENEW) <= valid
    assert (action.need in {Need.ENROL, Need.TOKEN}) <= (not valid)
    assert (action.need is Need.ENROL) <= token
    assert action.seconds > 0 or action.need in {Need.ENROL, Need.RENEW}


@given(st.timedeltas(timedelta(seconds=5), timedelta(days=400)), chances)
def test_renewal_comes_well_before_the_end_and_not_at_the_start(ttl, chance):
    state = Renewal().held(NOW + ttl, NOW, chance)
    assert state.renew_at is not None
    assert 0.449 * ttl <= state.renew_at - NOW <= 0.551 * ttl


@given(st.integers(0, 5000), ticks, chances)
def test_a_backoff_stays_between_a_moment_and_a_minute(failures, tick, chance):
    state = Renewal(failures=failures).failed(tick, chance)
    assert 0.3 < state.retry_at - tick <= LAST_BACKOFF + 1e-6
