"""The state-of-the-world variant, step by step."""

import pytest

from app.core.errors import InvalidInputError
from app.envoy.sds import SECRET_TYPE
from app.transport.xds.exchange import Reply
from app.transport.xds.state_of_the_world import StateOfTheWorldExchange
from tests.assets.discovery import CATALOG, DOMAIN, OWN, names_in, offer, opened, request, secret_of
from tests.fakes import secrets
from tests.fakes.resources import FakeCatalog, subscribed


@pytest.fixture
def exchange():
    return StateOfTheWorldExchange(CATALOG, "s")


def test_the_first_request_is_answered_even_if_it_names_the_current_version(exchange):
    _, first = opened(exchange, request("default"))
    _, again = opened(exchange, request("default", version=first.version_info, nonce="earlier-1"))
    assert again.version_info == first.version_info
    assert names_in(again) == ["default"]
    assert again.type_url == SECRET_TYPE


def test_each_resource_has_the_name_it_was_requested_by(exchange):
    _, response = opened(exchange, request("default", OWN, "ROOTCA", DOMAIN))
    assert sorted(names_in(response)) == sorted(["default", OWN, "ROOTCA", DOMAIN])


def test_no_names_at_first_and_an_asterisk_are_both_the_wildcard(exchange):
    for said in (request(), request("*")):
        _, response = opened(exchange, said)
        assert names_in(response) == ["ROOTCA", "default"]


def test_an_ack_is_not_answered(exchange):
    after, response = opened(exchange, request("default"))
    after, reply = after.receive(request("default", nonce=response.nonce, version=response.version_info))
    assert reply is Reply.ACK
    assert not after.due
    assert offer(after)[1] is None


def test_a_rotation_is_pushed_once(exchange):
    after, first = opened(exchange, request("default"))
    after, pushed = offer(after, svid=secrets.svid(2))
    assert secret_of(pushed.resources[0]).tls_certificate.private_key.inline_bytes == b"key 2\n"
    assert pushed.version_info != first.version_info
    assert pushed.nonce != first.nonce
    assert offer(after, svid=secrets.svid(2))[1] is None


def test_a_refused_version_is_not_sent_again(exchange):
    after, first = opened(exchange, request("default"))
    after, _ = after.receive(request("default", nonce=first.nonce, version=first.version_info))
    after, second = offer(after, svid=secrets.svid(2))
    after, reply = after.receive(
        request("default", nonce=second.nonce, version=first.version_info, error="key does not match")
    )
    assert reply is Reply.NACK
    assert not after.due
    assert offer(after, svid=secrets.svid(2))[1] is None
    after, third = offer(after, svid=secrets.svid(3))
    assert third.version_info not in {first.version_info, second.version_info}


def test_a_version_before_a_nack_is_sent_when_it_becomes_current_again(exchange):
    after, first = opened(exchange, request("default"))
    after, second = offer(after, svid=secrets.svid(2))
    after, _ = after.receive(request("default", nonce=second.nonce, error="no"))
    assert offer(after, svid=secrets.svid(1))[1].version_info == first.version_info


@pytest.mark.parametrize("nonce", ["", "s-1", "s-99", "other-2", "s-2x", "s-02", "s--2", "-2", "٢", "s-٢", "9" * 5000])
def test_a_stale_nonce_changes_nothing(exchange, nonce):
    after, _ = opened(exchange, request("default"))
    after, _ = offer(after, svid=secrets.svid(2))
    same, reply = after.receive(request("ROOTCA", nonce=nonce))
    assert reply is Reply.STALE
    assert same == after


def test_names_that_are_added_are_answered_and_names_that_are_dropped_are_not(exchange):
    after, response = opened(exchange, request("default"))
    after, reply = after.receive(request("default", "ROOTCA", nonce=response.nonce))
    assert reply is Reply.ACK
    assert after.due
    after, response = offer(after)
    assert names_in(response) == ["ROOTCA", "default"]
    after, _ = after.receive(request("ROOTCA", nonce=response.nonce))
    assert not after.due
    assert offer(after, svid=secrets.svid(2))[1] is None


def test_a_second_request_with_the_current_nonce_is_a_change_of_names_and_no_second_ack(exchange):
    after, response = opened(exchange, request("default"))
    after, _ = after.receive(request("default", nonce=response.nonce))
    after, reply = after.receive(request("ROOTCA", nonce=response.nonce))
    assert reply is Reply.REQUEST
    assert names_in(offer(after)[1]) == ["ROOTCA"]


def test_no_names_after_names_ends_the_subscription(exchange):
    after, response = opened(exchange, request("default"))
    after, _ = after.receive(request(nonce=response.nonce))
    assert after.wanted == frozenset()
    assert offer(after, svid=secrets.svid(2))[1] is None


def test_no_names_after_no_names_keeps_the_wildcard(exchange):
    after, response = opened(exchange, request())
    after, _ = after.receive(request(nonce=response.nonce))
    assert names_in(offer(after, svid=secrets.svid(2))[1]) == ["ROOTCA", "default"]


def test_names_replace_an_implicit_wildcard(exchange):
    after, response = opened(exchange, request())
    after, _ = after.receive(request("ROOTCA", nonce=response.nonce))
    assert after.wanted == {"ROOTCA"}


@pytest.mark.parametrize("said", [request("nobody"), request(type_url="x"), request(*["default"] * 17)])
def test_an_invalid_request_is_refused_at_first_and_later(exchange, said):
    with pytest.raises(InvalidInputError):
        exchange.receive(said)
    after, response = opened(exchange, request("default"))
    said.response_nonce = response.nonce
    with pytest.raises(InvalidInputError):
        after.receive(said)


@pytest.fixture
def clusters():
    return StateOfTheWorldExchange(FakeCatalog(), "s")


def give(exchange, **versions):
    exchange, response = exchange.offer(subscribed(exchange.wanted, versions))
    return exchange, response and [body.value.decode() for body in response.resources]


@pytest.mark.parametrize("said", [request(), request("*"), request("a", "b")])
def test_a_resource_that_is_gone_is_missing_from_the_next_response(clusters, said):
    after, _ = clusters.receive(said)
    after, sent = give(after, a=1, b=1)
    assert sent == ["a 1", "b 1"]
    after, sent = give(after, a=1)
    assert sent == ["a 1"]
    assert give(after, a=1)[1] is None


@pytest.mark.parametrize("said", [request(), request("a")])
def test_a_subscription_without_resources_gets_one_empty_response(clusters, said):
    after, _ = clusters.receive(said)
    after, sent = give(after)
    assert sent == []
    again = request(*said.resource_names, nonce="s-1")
    after, reply = after.receive(again)
    assert (reply, after.due) == (Reply.ACK, False)
    assert give(after)[1] is None
    assert give(after, a=1)[1] == ["a 1"]


def test_a_new_resource_is_pushed_under_the_wildcard_alone(clusters):
    everything, _ = give(clusters.receive(request())[0], a=1)
    named, _ = give(clusters.receive(request("a"))[0], a=1)
    assert give(everything, a=1, b=1)[1] == ["a 1", "b 1"]
    assert give(named, a=1, b=1)[1] is None


def test_a_name_already_sent_under_the_wildcard_is_not_sent_again(clusters):
    after, _ = give(clusters.receive(request())[0], a=1, b=1)
    after, _ = after.receive(request("a", nonce="s-1"))
    assert not after.due
    assert give(after, a=1)[1] is None


def test_a_name_that_is_dropped_and_named_again_is_sent_again(clusters):
    after, _ = give(clusters.receive(request("a", "b"))[0], a=1, b=1)
    after, _ = after.receive(request("a", nonce="s-1"))
    assert give(after, a=1)[1] is None
    after, _ = after.receive(request("a", "b", nonce="s-1"))
    assert give(after, a=1, b=1)[1] == ["a 1", "b 1"]
