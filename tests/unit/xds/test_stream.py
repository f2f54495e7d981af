"""Several types of resources on one stream, each with an exchange of its own."""

import asyncio

import pytest

from app.core.errors import InvalidInputError
from app.transport.xds.delta import DeltaExchange
from app.transport.xds.exchange import Reply
from app.transport.xds.state_of_the_world import StateOfTheWorldExchange
from app.transport.xds.stream import fetch, run_stream
from tests.assets.discovery import delta, request
from tests.fakes.conversation import Conversation
from tests.fakes.resources import CLUSTERS, LISTENERS, FakeCatalog, FakeResources

PATIENCE = 5


class Observed:
    """A StreamObserver that keeps what it was notified of."""

    def __init__(self) -> None:
        self.open = 0
        self.replies = []

    def __enter__(self):
        self.open += 1
        return self.received

    def __exit__(self, *_) -> None:
        self.open -= 1

    def received(self, said, reply, _exchange) -> None:
        self.replies.append((said.type_url, reply))


@pytest.fixture
def sources():
    return {
        CLUSTERS: FakeResources(FakeCatalog(CLUSTERS), a=1),
        LISTENERS: FakeResources(FakeCatalog(LISTENERS), in_=1, out=1),
    }


@pytest.fixture
def observed():
    return Observed()


@pytest.fixture(params=[StateOfTheWorldExchange, DeltaExchange])
def variant(request):
    return request.param


@pytest.fixture
def say(variant):
    return delta if variant is DeltaExchange else request


async def following(responses):
    return await asyncio.wait_for(anext(responses), PATIENCE)


async def test_each_type_is_answered_and_acknowledged_on_its_own(variant, say, sources, observed):
    conversation = Conversation(say(type_url=CLUSTERS))
    responses = run_stream(variant, sources, conversation, observed)
    clusters = await following(responses)
    assert (clusters.type_url, len(clusters.resources)) == (CLUSTERS, 1)
    conversation.say(say(type_url=LISTENERS))
    listeners = await following(responses)
    assert (listeners.type_url, len(listeners.resources)) == (LISTENERS, 2)
    conversation.say(say(type_url=CLUSTERS, nonce=clusters.nonce, error="no"))
    conversation.say(say(type_url=LISTENERS, nonce=listeners.nonce))
    conversation.hang_up()
    with pytest.raises(StopAsyncIteration):
        await following(responses)
    assert observed.replies == [
        (CLUSTERS, Reply.REQUEST),
        (LISTENERS, Reply.REQUEST),
        (CLUSTERS, Reply.NACK),
        (LISTENERS, Reply.ACK),
    ]
    assert observed.open == 0


async def test_an_acknowledgement_does_not_ask_the_source_again(variant, say, sources, observed):
    conversation = Conversation(say(type_url=CLUSTERS))
    responses = run_stream(variant, sources, conversation, observed)
    first = await following(responses)
    conversation.say(say(type_url=CLUSTERS, nonce=first.nonce))
    conversation.hang_up()
    with pytest.raises(StopAsyncIteration):
        await following(responses)
    assert observed.replies[-1] == (CLUSTERS, Reply.ACK)
    assert sources[CLUSTERS].asked == 1


async def test_a_change_is_pushed_for_its_own_type_alone(variant, say, sources, observed):
    conversation = Conversation(say(type_url=CLUSTERS), say(type_url=LISTENERS))
    responses = run_stream(variant, sources, conversation, observed)
    assert {(await following(responses)).type_url for _ in sources} == {CLUSTERS, LISTENERS}
    for version, type_url in enumerate((LISTENERS, CLUSTERS, LISTENERS), 2):
        sources[type_url].replace(a=version)
        assert (await following(responses)).type_url == type_url
    await responses.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_changes_of_two_types_at_once_are_both_pushed(variant, say, sources, observed):
    conversation = Conversation(say(type_url=CLUSTERS), say(type_url=LISTENERS))
    responses = run_stream(variant, sources, conversation, observed)
    assert {(await following(responses)).type_url for _ in sources} == {CLUSTERS, LISTENERS}
    for source in sources.values():
        source.replace(new=1)
    assert {(await following(responses)).type_url for _ in sources} == {CLUSTERS, LISTENERS}
    await responses.aclose()


@pytest.mark.parametrize("type_url", ["", "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"])
async def test_an_unknown_or_ambiguous_type_ends_the_stream(variant, say, sources, observed, type_url):
    responses = run_stream(variant, sources, Conversation(say(type_url=type_url)), observed)
    with pytest.raises(InvalidInputError, match=r"serves .*Cluster, .*Listener"):
        await following(responses)
    assert observed.open == 0


async def test_a_type_may_be_left_out_where_one_is_served(variant, say, sources, observed):
    responses = run_stream(variant, {CLUSTERS: sources[CLUSTERS]}, Conversation(say()), observed)
    assert (await following(responses)).type_url == CLUSTERS
    await responses.aclose()


async def test_a_name_that_the_catalog_refuses_ends_the_stream(variant, say, sources, observed):
    responses = run_stream(variant, sources, Conversation(say("secret", type_url=CLUSTERS)), observed)
    with pytest.raises(InvalidInputError, match="there is no secret"):
        await following(responses)


async def test_a_fetch_returns_the_existing_resources(sources):
    response = await fetch(sources[CLUSTERS], request("a", "missing"))
    assert [body.value for body in response.resources] == [b"a 1"]
    assert response.version_info
