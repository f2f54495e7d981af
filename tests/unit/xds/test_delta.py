"""The incremental variant, step by step."""

import pytest

from app.core.errors import InvalidInputError
from app.transport.xds.delta import DeltaExchange
from app.transport.xds.exchange import Reply
from tests.assets.discovery import CATALOG, OWN, delta, delta_names, offer, opened, resources
from tests.fakes import secrets
from tests.fakes.resources import FakeCatalog, subscribed


@pytest.fixture
def exchange():
    return DeltaExchange(CATALOG, "s")


def test_the_first_request_is_answered_with_what_it_subscribes(exchange):
    _, response = opened(exchange, delta("default"))
    assert delta_names(response) == ["default"]
    assert response.resources[0].version == resources(["default"])["default"].version
    assert not response.removed_resources


def test_a_held_version_is_not_sent_after_a_reconnect(exchange):
    held = {name: resource.version for name, resource in resources(["default", "ROOTCA"]).items()}
    after, response = opened(exchange, delta("default", "ROOTCA", held=held))
    assert response is None
    assert delta_names(offer(after, svid=secrets.svid(2))[1]) == ["default"]


def test_an_outdated_held_version_is_replaced_after_a_reconnect(exchange):
    _, response = opened(exchange, delta("default", "ROOTCA", held={"default": "old"}))
    assert delta_names(response) == ["ROOTCA", "default"]


def test_a_held_resource_that_does_not_exist_is_reported_as_removed(exchange):
    _, response = opened(exchange, delta(held={"spiffe://example.org/gone": "1", "default": "old"}))
    assert list(response.removed_resources) == ["spiffe://example.org/gone"]
    assert delta_names(response) == ["ROOTCA", "default"]


def test_initial_versions_are_read_only_from_the_first_request(exchange):
    after, _ = opened(exchange, delta("default"))
    later = resources(["ROOTCA"])["ROOTCA"].version
    after, _ = after.receive(delta("ROOTCA", held={"ROOTCA": later}))
    assert delta_names(offer(after)[1]) == ["ROOTCA"]


def test_only_changed_resources_are_pushed(exchange):
    after, _ = opened(exchange, delta("default", "ROOTCA"))
    after, pushed = offer(after, svid=secrets.svid(2))
    assert delta_names(pushed) == ["default"]
    assert offer(after, svid=secrets.svid(2))[1] is None


def test_a_name_subscribed_again_is_sent_again(exchange):
    after, _ = opened(exchange, delta("default"))
    after, _ = after.receive(delta("default"))
    assert after.due
    assert delta_names(offer(after)[1]) == ["default"]


def test_an_unsubscribed_name_is_no_longer_sent(exchange):
    after, _ = opened(exchange, delta("default", "ROOTCA"))
    after, _ = after.receive(delta(drop=["default", "never subscribed"]))
    assert not after.due
    assert offer(after, svid=secrets.svid(2))[1] is None
    after, _ = after.receive(delta("default"))
    assert delta_names(offer(after, svid=secrets.svid(2))[1]) == ["default"]


def test_unsubscribing_the_last_name_does_not_start_the_wildcard(exchange):
    after, _ = opened(exchange, delta("default"))
    after, _ = after.receive(delta(drop=["default"]))
    assert after.wanted == frozenset()


def test_a_name_unsubscribed_under_the_wildcard_is_sent_again_or_reported_as_removed(exchange):
    after, _ = opened(exchange, delta("*", "default", OWN))
    after, _ = after.receive(delta(drop=["default", OWN]))
    _, response = offer(after)
    assert delta_names(response) == ["default"]
    assert list(response.removed_resources) == [OWN]


def test_the_wildcard_is_subscribed_and_unsubscribed_by_its_name(exchange):
    after, _ = opened(exchange, delta("default"))
    after, _ = after.receive(delta("*"))
    after, response = offer(after)
    assert delta_names(response) == ["ROOTCA", "default"]
    after, _ = after.receive(delta(drop=["*"]))
    assert after.wanted == {"default"}
    assert offer(after, bundle=secrets.bundle("new\n"))[1] is None


def test_a_refused_resource_is_not_sent_again_until_it_changes_or_is_subscribed_again(exchange):
    after, response = opened(exchange, delta("default"))
    after, reply = after.receive(delta(nonce=response.nonce, error="bad key"))
    assert reply is Reply.NACK
    assert not after.due
    assert offer(after)[1] is None
    asked, _ = after.receive(delta("default"))
    assert delta_names(offer(asked)[1]) == ["default"]
    assert delta_names(offer(after, svid=secrets.svid(2))[1]) == ["default"]


def test_each_response_is_acknowledged_separately_and_once(exchange):
    after, first = opened(exchange, delta("default"))
    after, second = offer(after, svid=secrets.svid(2))
    after, reply = after.receive(delta(nonce=first.nonce))
    assert reply is Reply.ACK
    after, reply = after.receive(delta(nonce=second.nonce, error="no"))
    assert reply is Reply.NACK
    assert after.receive(delta(nonce=second.nonce))[1] is Reply.STALE


@pytest.mark.parametrize("nonce", ["s-0", "s-7", "other-1", "x", "s-1 "])
def test_an_unknown_nonce_does_not_hide_a_change_of_subscription(exchange, nonce):
    after, _ = opened(exchange, delta("default"))
    after, reply = after.receive(delta("ROOTCA", nonce=nonce, error="whatever"))
    assert reply is Reply.STALE
    assert delta_names(offer(after)[1]) == ["ROOTCA"]


@pytest.mark.parametrize(
    "said",
    [
        delta("nobody"),
        delta(type_url="x"),
        delta(*["default"] * 17),
        delta(drop=["x"] * 17),
    ],
)
def test_an_invalid_request_is_refused_at_first_and_later(exchange, said):
    with pytest.raises(InvalidInputError):
        exchange.receive(said)
    after, _ = opened(exchange, delta("default"))
    with pytest.raises(InvalidInputError):
        after.receive(said)


def test_too_many_initial_versions_are_refused(exchange):
    with pytest.raises(InvalidInputError):
        exchange.receive(delta(held={str(n): "v" for n in range(17)}))


@pytest.fixture
def clusters():
    return DeltaExchange(FakeCatalog(), "s")


def give(exchange, **versions):
    return exchange.offer(subscribed(exchange.wanted, versions))


@pytest.mark.parametrize("said", [delta(), delta("*"), delta("a", "b")])
def test_a_resource_that_is_gone_is_reported_as_removed_once(clusters, said):
    after, _ = clusters.receive(said)
    after, response = give(after, a=1, b=1)
    assert delta_names(response) == ["a", "b"]
    after, response = give(after, a=1)
    assert not response.resources
    assert list(response.removed_resources) == ["b"]
    assert give(after, a=1)[1] is None
    assert delta_names(give(after, a=1, b=1)[1]) == ["b"]


def test_a_name_that_does_not_exist_is_reported_as_removed_until_it_does(clusters):
    after, _ = clusters.receive(delta("a"))
    after, response = give(after)
    assert list(response.removed_resources) == ["a"]
    after, _ = after.receive(delta("b", nonce=response.nonce))
    after, response = give(after)
    assert list(response.removed_resources) == ["b"]
    assert delta_names(give(after, a=1, b=1)[1]) == ["a", "b"]


def test_a_new_resource_is_pushed_under_the_wildcard_alone(clusters):
    everything, _ = clusters.receive(delta())
    everything, _ = give(everything, a=1)
    named, _ = clusters.receive(delta("a"))
    named, _ = give(named, a=1)
    assert delta_names(give(everything, a=1, b=1)[1]) == ["b"]
    assert give(named, a=1, b=1)[1] is None


def test_unsubscribing_the_wildcard_keeps_the_named_resources(clusters):
    after, _ = clusters.receive(delta("*", "a"))
    after, _ = give(after, a=1, b=1)
    after, _ = after.receive(delta(drop=["*"]))
    assert not after.due
    assert give(after, a=1)[1] is None
    assert delta_names(give(after, a=2)[1]) == ["a"]


def test_a_subscription_cannot_exceed_the_bound_over_several_requests(clusters):
    after, _ = clusters.receive(delta(*(str(number) for number in range(8))))
    with pytest.raises(InvalidInputError, match="at most 8"):
        after.receive(delta("one more"))
