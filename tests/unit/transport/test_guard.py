"""Which connections are closed because their peers have proven nothing."""

import pytest

from app.transport.guard import (
    COUNTED_AFTER_SECONDS,
    FIRST_REQUEST_SECONDS,
    MAX_UNPROVEN_PER_ADDRESS,
    UNPROVEN_IDLE_SECONDS,
    Reason,
    Unproven,
    connections_to_close,
)

NOW = 1000.0
MANY = 10_000


def test_a_connection_without_a_request_is_closed_after_its_time():
    waiting = [Unproven(1, "a", NOW - FIRST_REQUEST_SECONDS), Unproven(2, "a", NOW - FIRST_REQUEST_SECONDS + 0.1)]
    assert connections_to_close(waiting, NOW, MANY) == {1: Reason.NO_REQUEST}


@pytest.mark.parametrize(
    ("idle_since", "closed"), [(None, False), (NOW - 1, False), (NOW - UNPROVEN_IDLE_SECONDS, True)]
)
def test_a_connection_with_a_request_is_closed_once_it_is_idle(idle_since, closed):
    used = Unproven(1, "a", NOW - 5000, requested=True, idle_since=idle_since)
    assert connections_to_close([used], NOW, MANY) == ({1: Reason.IDLE} if closed else {})


def test_the_newest_beyond_the_limit_of_an_address_are_closed():
    crowd = [Unproven(n, "a", NOW - 9 + n / 1000) for n in range(MAX_UNPROVEN_PER_ADDRESS + 3)]
    other = Unproven(9999, "b", NOW - 2)
    assert connections_to_close([*reversed(crowd), other], NOW, MANY) == dict.fromkeys(
        range(MAX_UNPROVEN_PER_ADDRESS, MAX_UNPROVEN_PER_ADDRESS + 3), Reason.ADDRESS_LIMIT
    )


def test_half_of_the_connections_stay_free_for_peers_that_prove_themselves():
    crowd = [Unproven(n, f"host-{n}", NOW - 5 + n / 100, requested=n % 2 == 0) for n in range(20)]
    closed = connections_to_close(crowd, NOW, 30)
    # The oldest of those that have made no request go first.
    assert closed == dict.fromkeys([1, 3, 5, 7, 9], Reason.PORT_LIMIT)


def test_a_peer_that_has_just_connected_is_not_counted():
    crowd = [Unproven(n, "a", NOW - COUNTED_AFTER_SECONDS / 2) for n in range(MANY)]
    assert connections_to_close(crowd, NOW, 10) == {}
