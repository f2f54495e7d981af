"""A service that fails is left alone, longer and longer, and tried by one call at a time."""

from app.core.circuit import FIRST_PAUSE, LAST_PAUSE, MAX_FAILURES, Circuit


def broken(now=0.0):
    circuit = Circuit()
    for _ in range(MAX_FAILURES):
        assert circuit.admit(now) == 0
        circuit.failed(now)
    return circuit


def test_a_service_that_fails_now_and_then_is_asked():
    circuit = Circuit()
    for _ in range(10):
        for _ in range(MAX_FAILURES - 1):
            circuit.failed(0)
        assert not circuit.away
        circuit.succeeded()


def test_one_that_fails_is_left_alone_until_the_pause_is_over():
    circuit = broken()
    assert circuit.away
    assert circuit.admit(FIRST_PAUSE / 2) == FIRST_PAUSE / 2
    assert circuit.admit(FIRST_PAUSE) == 0


def test_after_the_pause_one_call_tries_and_the_others_wait_for_it():
    circuit = broken()
    assert circuit.admit(FIRST_PAUSE) == 0
    assert circuit.admit(FIRST_PAUSE) > 0
    circuit.succeeded()
    assert circuit.admit(FIRST_PAUSE) == 0
    assert not circuit.away


def test_a_call_that_tries_and_never_returns_is_followed_by_another():
    circuit = broken()
    assert circuit.admit(FIRST_PAUSE) == 0
    assert circuit.admit(10 * LAST_PAUSE) == 0


def test_pauses_double_up_to_the_last():
    circuit, now, pauses = broken(), 0.0, []
    for _ in range(8):
        now += (pause := circuit.admit(now))
        pauses.append(pause)
        assert circuit.admit(now) == 0
        circuit.failed(now)
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses[-1] == LAST_PAUSE
