"""The driver: requests and changes in, responses out."""

import asyncio
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from app.core.errors import (
    InvalidInputError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from app.envoy.sds import SecretDiscovery
from app.spiffe.principal import Credential, Principal
from app.spiffe.subscribers import Subscribers
from tests.assets.discovery import delta, delta_names, names_in, request, secret_of
from tests.fakes import secrets
from tests.fakes.context import call_context
from tests.fakes.conversation import Conversation

PATIENCE = 5


def context(**changes):
    return call_context(**{"peer": "unix", "principal": Principal(Credential.SVID, secrets.OWNER)} | changes)


@pytest.fixture
def source():
    return secrets.FakeSecrets()


@pytest.fixture
def subscribers():
    return Subscribers(lambda: 0.0, away_seconds=0)


@pytest.fixture
def discovery(source, metrics, subscribers):
    return SecretDiscovery(source, metrics, subscribers)


async def following(responses):
    return await asyncio.wait_for(anext(responses), PATIENCE)


async def turns(count):
    """Let every other task take a few steps."""
    for _ in range(count):
        await asyncio.sleep(0)


async def no_more(responses):
    """The stream ends, with nothing sent before its end."""
    with pytest.raises(StopAsyncIteration):
        await following(responses)


@pytest.mark.parametrize(
    ("variant", "say", "names"),
    [("stream_secrets", request, names_in), ("delta_secrets", delta, delta_names)],
)
async def test_a_rotation_is_pushed_on_the_open_stream(discovery, source, variant, say, names):
    conversation = Conversation(say("default"))
    responses = getattr(discovery, variant)(conversation, context())
    first = await following(responses)
    conversation.say(say(nonce=first.nonce) if say is delta else say("default", nonce=first.nonce))
    await source.replace(svid=secrets.svid(2))
    assert names(await following(responses)) == ["default"]
    conversation.hang_up()
    await no_more(responses)


async def test_no_svid_is_made_for_a_stream_that_asks_for_the_bundle_alone(discovery, source):
    conversation = Conversation(request("ROOTCA"))
    responses = discovery.stream_secrets(conversation, context())
    first = await following(responses)
    conversation.say(request("ROOTCA", "default", nonce=first.nonce))
    assert source.made == 0
    assert names_in(await following(responses)) == ["ROOTCA", "default"]
    assert source.made == 1
    await responses.aclose()


async def test_a_change_of_an_unsubscribed_secret_is_not_pushed(discovery, source):
    conversation = Conversation(request("default", "ROOTCA"))
    responses = discovery.stream_secrets(conversation, context())
    first = await following(responses)
    conversation.say(request("ROOTCA", nonce=first.nonce))
    waiting = asyncio.ensure_future(following(responses))
    await source.replace(svid=secrets.svid(2))
    await turns(100)
    assert source.made == 2  # asked for once more, so that the session stops telling of it
    await source.replace(bundle=secrets.bundle("new\n"))
    assert names_in(await waiting) == ["ROOTCA"]
    await responses.aclose()


async def test_an_error_while_waiting_ends_the_stream_with_its_reason(discovery, source):
    responses = discovery.stream_secrets(Conversation(request("default")), context())
    await following(responses)
    source.waiting_fails = UnavailableError("the database is away")
    await source.replace()
    with pytest.raises(UnavailableError, match="the database is away"):
        await following(responses)


async def test_a_half_close_ends_the_stream_after_its_requests_are_answered(discovery):
    conversation = Conversation(request("default"))
    conversation.hang_up()
    responses = discovery.stream_secrets(conversation, context())
    assert names_in(await following(responses)) == ["default"]
    await no_more(responses)


async def test_a_half_close_before_any_request_ends_the_stream(discovery):
    conversation = Conversation()
    conversation.hang_up()
    await no_more(discovery.stream_secrets(conversation, context()))


def held(subscribers):
    return [(each.bundle, each.problem) for each in subscribers.of_bundles()]


async def said(conversation, responses, message):
    """What comes after a message, which has been read."""
    conversation.say(message)
    task = asyncio.ensure_future(following(responses))
    await turns(20)
    return task


@pytest.mark.parametrize(("variant", "say"), [("stream_secrets", request), ("delta_secrets", delta)])
async def test_the_bundle_that_a_client_has_accepted_is_known(discovery, source, subscribers, variant, say):
    first, names = source.current_bundle, ("ROOTCA", "default") if say is request else ()
    conversation = Conversation(say("ROOTCA", "default"))
    responses = getattr(discovery, variant)(conversation, context())
    answer = await following(responses)
    assert held(subscribers) == [(None, "")]
    pushed = await said(conversation, responses, say(*names, nonce=answer.nonce))
    assert held(subscribers) == [(first.version, "")]
    await source.replace(bundle=secrets.bundle("new\n"))
    pushed = await said(conversation, responses, say(*names, nonce=(await pushed).nonce, error="too many roots"))
    assert held(subscribers) == [(first.version, "too many roots")]
    await source.replace(bundle=secrets.bundle("newer\n"))
    pushed = await said(conversation, responses, say(*names, nonce=(await pushed).nonce))
    assert held(subscribers) == [(source.current_bundle.version, "")]
    conversation.hang_up()
    with pytest.raises(StopAsyncIteration):
        await pushed
    assert held(subscribers) == []


async def test_a_stream_without_the_bundle_holds_none(discovery, subscribers):
    conversation = Conversation(request("default"))
    responses = discovery.stream_secrets(conversation, context())
    pushed = await said(conversation, responses, request("default", nonce=(await following(responses)).nonce))
    assert held(subscribers) == []
    pushed.cancel()


async def test_a_new_certificate_after_a_bundle_does_not_acknowledge_the_bundle(discovery, source, subscribers):
    """In the delta variant each response is accepted by itself."""
    before, conversation = source.current_bundle, Conversation(delta("ROOTCA", "default"))
    responses = discovery.delta_secrets(conversation, context())
    pushed = await said(conversation, responses, delta(nonce=(await following(responses)).nonce))
    await source.replace(bundle=secrets.bundle("new\n"))
    assert delta_names(await pushed) == ["ROOTCA"]
    await source.replace(svid=secrets.svid(2))
    only_svid = await following(responses)
    assert delta_names(only_svid) == ["default"]
    pushed = await said(conversation, responses, delta(nonce=only_svid.nonce))
    assert held(subscribers) == [(before.version, "")]
    pushed.cancel()


async def test_withdrawn_authorities_are_for_those_who_ask_by_name(discovery, source):
    source.current_bundle = replace(source.current_bundle, withdrawn=("a" * 40, "b" * 40))
    responses = discovery.stream_secrets(Conversation(request("ROOTCA", "WITHDRAWN")), context())
    roots, withdrawn = (secret_of(body) for body in (await following(responses)).resources)
    assert roots.validation_context.trusted_ca.inline_bytes == b"root 1\n"
    assert withdrawn.generic_secret.secret.inline_bytes.split() == [b"a" * 40, b"b" * 40]
    await responses.aclose()


async def test_open_streams_are_counted_until_the_peer_disconnects(discovery, metrics):
    conversation = Conversation(request("default"))
    responses = discovery.stream_secrets(conversation, context())
    await following(responses)
    assert b"meshward_sds_streams 1.0" in metrics.render()
    conversation.fail(ConnectionResetError())
    with pytest.raises(ConnectionResetError):
        await following(responses)
    assert b"meshward_sds_streams 0.0" in metrics.render()


async def test_closing_a_stream_leaves_no_task_behind(discovery):
    responses = discovery.stream_secrets(Conversation(request("default")), context())
    await following(responses)
    await responses.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_replies_are_counted_and_a_refusal_is_logged_with_the_node_and_its_error(discovery, metrics):
    conversation = Conversation(request("default", node={"id": "sidecar-7"}))
    responses = discovery.stream_secrets(conversation, context())
    with capture_logs() as logs:
        first = await following(responses)
        conversation.say(request("default", nonce="stale"))
        conversation.say(request("default", nonce=first.nonce, error="bad " * 1000))
        conversation.hang_up()
        await no_more(responses)
    assert metrics.sds_replies.value("nack") == 1
    assert metrics.sds_replies.value("stale") == 1
    assert metrics.sds_replies.value("ack") == 0
    (refused,) = logs
    assert refused["event"] == "sds_secret_refused"
    assert refused["node"] == "sidecar-7"
    assert refused["error"].startswith("bad ")
    assert len(refused["error"]) <= 512


async def test_no_key_is_logged(discovery, source):
    conversation = Conversation(request("default"))
    with capture_logs() as logs:
        responses = discovery.stream_secrets(conversation, context())
        first = await following(responses)
        conversation.say(request("default", nonce=first.nonce, error="no"))
        conversation.hang_up()
        await no_more(responses)
    assert "key 1" not in repr(logs)


async def test_an_error_of_the_source_ends_the_stream_with_its_reason(discovery, source):
    responses = discovery.stream_secrets(Conversation(request("default")), context())
    await following(responses)
    await source.replace(failure=UnavailableError("the SVID has expired"))
    with pytest.raises(UnavailableError, match="has expired"):
        await following(responses)


@pytest.mark.parametrize("variant", ["stream_secrets", "delta_secrets"])
async def test_a_name_of_another_workload_ends_the_stream(discovery, variant):
    said = (delta if variant == "delta_secrets" else request)("spiffe://example.org/ns/shop/sa/till")
    with pytest.raises(InvalidInputError, match="sa/till"):
        await following(getattr(discovery, variant)(Conversation(said), context()))


async def test_fetch_returns_the_requested_secrets(discovery):
    response = await discovery.fetch_secrets(request("ROOTCA"), context())
    assert names_in(response) == ["ROOTCA"]
    assert response.version_info
    everything = await discovery.fetch_secrets(request(), context())
    assert names_in(everything) == ["ROOTCA", "default"]


async def test_the_session_is_opened_for_the_caller(discovery, source):
    await discovery.fetch_secrets(request(), context())
    assert source.opened == [Principal(Credential.SVID, secrets.OWNER)]


@pytest.mark.parametrize("caller", [Principal(Credential.NONE), Principal(Credential.LOOPBACK)])
async def test_a_caller_without_an_identity_gets_nothing(discovery, source, caller):
    with pytest.raises(UnauthenticatedError):
        await discovery.fetch_secrets(request(), context(principal=caller))
    for variant in (discovery.stream_secrets, discovery.delta_secrets):
        with pytest.raises(UnauthenticatedError):
            await following(variant(Conversation(request()), context(principal=caller)))
    assert source.opened == []


@pytest.mark.parametrize("peer", ["unix", "127.0.0.1:4000", "127.9.9.9:4000", "::1:4000"])
async def test_a_key_is_sent_over_plaintext_within_the_machine(discovery, peer):
    assert names_in(await discovery.fetch_secrets(request("default"), context(peer=peer))) == ["default"]


@pytest.mark.parametrize(
    "peer",
    ["", "10.0.0.1:4000", "192.168.1.7:1", "[2001:db8::1]:4000", "::ffff:10.0.0.1:4", "localhost:1", "0:0"],
)
async def test_a_key_is_never_sent_over_plaintext_to_another_machine(discovery, source, peer):
    with pytest.raises(PermissionDeniedError, match="plaintext"):
        await discovery.fetch_secrets(request("default"), context(peer=peer))
    assert source.made == 0
    assert names_in(await discovery.fetch_secrets(request("ROOTCA"), context(peer=peer))) == ["ROOTCA"]
    assert names_in(await discovery.fetch_secrets(request("default"), context(peer=peer, tls=True))) == ["default"]
