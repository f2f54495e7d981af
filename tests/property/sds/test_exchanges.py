"""Laws of both variants, over every order of requests, replies and rotations that hypothesis can find."""

from hypothesis import given, settings
from hypothesis import strategies as st

from app.ca.rpc.sds_delta import DeltaExchange
from app.ca.rpc.sds_exchange import Reply
from app.ca.rpc.sds_names import WILDCARD
from app.ca.rpc.sds_stream import StreamExchange
from app.core.errors import InvalidInputError
from tests.fakes import secrets
from tests.unit.sds.requests import CATALOG, DOMAIN, OWN, delta, delta_names, names_in, request, resources

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
    world = World(StreamExchange(CATALOG, "s"))
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
            assert set(names_in(response)) == world.exchange.wanted
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
    st.sampled_from([StreamExchange, DeltaExchange]),
    st.lists(st.text(max_size=40), max_size=20),
    st.text(max_size=80),
    st.text(max_size=40),
)
def test_any_request_is_taken_or_refused_as_invalid_and_never_leaks_anothers_name(variant, wild, nonce, kind):
    say = request if variant is StreamExchange else delta
    exchange = variant(CATALOG, "s")
    for _ in range(2):
        try:
            exchange, _ = exchange.receive(say(*wild, nonce=nonce, type_url=kind))
        except InvalidInputError:
            return
        exchange, _ = exchange.offer(resources(exchange.wanted))
        assert exchange.wanted <= {"default", "ROOTCA", OWN, DOMAIN}


def _take(held, response) -> None:
    if response is not None:
        held.update((resource.name, resource.resource) for resource in response.resources)
        for name in response.removed_resources:
            held.pop(name, None)
