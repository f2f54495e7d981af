"""Laws of both variants, over every order of requests, replies and rotations that hypothesis can find."""

from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.errors import InvalidInputError
from app.transport.xds.delta import DeltaExchange
from app.transport.xds.exchange import Reply
from app.transport.xds.resources import WILDCARD
from app.transport.xds.state_of_the_world import StateOfTheWorldExchange
from tests.assets.discovery import CATALOG, DOMAIN, OWN, delta, delta_names, names_in, request, resources
from tests.fakes import secrets
from tests.fakes.resources import FakeCatalog, subscribed

names = st.lists(st.sampled_from(["default", "ROOTCA", OWN, DOMAIN, WILDCARD]), max_size=6)
answers = st.sampled_from(["ack", "nack", "stale", "none"])
said = st.tuples(st.just("say"), names, names, answers)
rotated = st.tuples(st.just("rotate"), st.sampled_from(["svid", "bundle", "neither"]))
events = st.lists(st.one_of(said, rotated), max_size=30)


class World:
    """What a server holds and what a faithful client of one stream has been told."""

    def __init__(self, exchange) -> None:
        self.exchange = exchange
        self.serial = {"svid": 1, "bundle": 1}
        self.nonces = []

    def current(self):
        bundle = secrets.bundle(f"root {self.serial['bundle']}\n")
        return resources(self.exchange.wanted, secrets.svid(self.serial["svid"]), bundle)

    def rotate(self, what) -> None:
        if what != "neither":
            self.serial[what] += 1

    def nonce(self, answer) -> str:
        last = self.nonces[-1] if self.nonces else ""
        return {"ack": last, "nack": last, "stale": "s-999", "none": ""}[answer]

    def offer(self):
        self.exchange, response = self.exchange.offer(self.current())
        if response is not None:
            self.nonces.append(response.nonce)
        return response


@settings(max_examples=200)
@given(names, events)
def test_a_state_of_the_world_client_always_holds_what_it_is_subscribed_to(first, story):
    world = World(StateOfTheWorldExchange(CATALOG, "s"))
    world.exchange, _ = world.exchange.receive(request(*first))
    response = world.offer()
    assert response is not None
    held = dict(zip(names_in(response), response.resources, strict=True))
    for event in story:
        if event[0] == "rotate":
            world.rotate(event[1])
        else:
            _, subscribed, _, answer = event
            before = world.exchange
            error = "no" if answer == "nack" else None
            world.exchange, reply = before.receive(request(*subscribed, nonce=world.nonce(answer), error=error))
            assert (reply is Reply.STALE) == (answer in {"stale", "none"})
            if reply is Reply.STALE:
                assert world.exchange == before
            if not world.exchange.due:
                continue
        response = world.offer()
        if response is not None:
            assert set(names_in(response)) == world.current().keys()
            held = dict(zip(names_in(response), response.resources, strict=True))
        for name, resource in world.current().items():
            assert held[name] == resource.body
        assert world.offer() is None
    assert len(set(world.nonces)) == len(world.nonces)


@settings(max_examples=200)
@given(names, events)
def test_a_delta_client_always_holds_what_it_is_subscribed_to(first, story):
    world = World(DeltaExchange(CATALOG, "s"))
    world.exchange, _ = world.exchange.receive(delta(*first))
    held = {}
    _take(held, world.offer())
    for event in story:
        if event[0] == "rotate":
            world.rotate(event[1])
        else:
            _, subscribe, drop, answer = event
            error = "no" if answer == "nack" else None
            world.exchange, _ = world.exchange.receive(
                delta(*subscribe, drop=drop, nonce=world.nonce(answer), error=error)
            )
            for name in set(drop) - {WILDCARD} - set(subscribe):
                held.pop(name, None)  # the client forgets what it drops
            if subscribe and set(subscribe) != set(drop):
                assert world.exchange.due
            if not world.exchange.due:
                continue
        _take(held, world.offer())
        for name, resource in world.current().items():
            assert held[name] == resource.body
        assert world.offer() is None
    assert len(set(world.nonces)) == len(world.nonces)


@given(names, names)
def test_a_reconnecting_delta_client_is_sent_exactly_what_it_lacks(subscribed, kept):
    exchange, _ = DeltaExchange(CATALOG, "s").receive(delta(*subscribed))
    current = resources(exchange.wanted)
    held = {name: current[name].version for name in kept if name in current}
    again, _ = DeltaExchange(CATALOG, "t").receive(delta(*subscribed, held=held))
    _, response = again.offer(current)
    assert set(delta_names(response) if response else ()) == set(current) - set(held)


@given(
    st.sampled_from([StateOfTheWorldExchange, DeltaExchange]),
    st.lists(st.text(max_size=40), max_size=20),
    st.text(max_size=80),
    st.text(max_size=40),
)
def test_any_request_is_accepted_or_refused_as_invalid_and_never_subscribes_another_name(variant, wild, nonce, kind):
    say = request if variant is StateOfTheWorldExchange else delta
    exchange = variant(CATALOG, "s")
    for _ in range(2):
        try:
            exchange, _ = exchange.receive(say(*wild, nonce=nonce, type_url=kind))
        except InvalidInputError:
            return
        exchange, _ = exchange.offer(resources(exchange.wanted))
        assert exchange.wanted <= {"default", "ROOTCA", OWN, DOMAIN, WILDCARD}


def _take(held, response) -> None:
    if response is not None:
        held.update((resource.name, resource.resource) for resource in response.resources)
        for name in response.removed_resources:
            held.pop(name, None)


existing = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 3))
some = st.lists(st.sampled_from(["a", "b", "c", "d", WILDCARD]), max_size=4)
changes = st.lists(st.one_of(st.tuples(some, some), existing), max_size=20)


@settings(max_examples=300)
@given(some, existing, changes)
def test_a_delta_client_holds_exactly_the_subscribed_resources_while_they_come_and_go(first, versions, story):
    exchange, _ = DeltaExchange(FakeCatalog(), "s").receive(delta(*first))
    held = {}
    for event in [versions, *story]:
        if isinstance(event, dict):
            versions = event
        else:
            subscribe, drop = event
            wildcard = WILDCARD in exchange.wanted
            exchange, _ = exchange.receive(delta(*subscribe, drop=drop))
            if wildcard and WILDCARD not in exchange.wanted:
                held = {name: body for name, body in held.items() if name in exchange.wanted}
            for name in drop:
                held.pop(name, None)  # the client forgets what it drops
        current = subscribed(exchange.wanted, versions)
        exchange, response = exchange.offer(current)
        _take(held, response)
        assert held == {name: resource.body for name, resource in current.items()}
        assert exchange.offer(current)[1] is None


@settings(max_examples=300)
@given(some, existing, changes)
def test_a_state_of_the_world_client_holds_exactly_the_subscribed_resources_while_they_come_and_go(
    first, versions, story
):
    exchange, _ = StateOfTheWorldExchange(FakeCatalog(), "s").receive(request(*first))
    held = {}
    for event in [versions, *story]:
        if isinstance(event, dict):
            versions = event
        else:
            names, _ = event
            exchange, _ = exchange.receive(request(*names, nonce=f"s-{exchange.sent}"))
        current = subscribed(exchange.wanted, versions)
        exchange, response = exchange.offer(current)
        if response is not None:
            held = dict(zip(sorted(current), response.resources, strict=True))
        kept = {name: body for name, body in held.items() if WILDCARD in exchange.wanted or name in exchange.wanted}
        assert kept == {name: resource.body for name, resource in current.items()}
        assert exchange.offer(current)[1] is None
