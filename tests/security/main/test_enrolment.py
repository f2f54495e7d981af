"""What a caller with a wrong token, a token or an SVID can take from others: no enrolment, few streams, few records."""

import asyncio
from contextlib import suppress

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from app.main.rpcs import ISTIO_CA
from app.proto.istio.ca_pb2 import IstioCertificateRequest, IstioCertificateResponse
from tests.assets.csrs import csr
from tests.assets.discovery import request
from tests.support.callers import CART, certify, code_of, join, plaintext_channel, stream_secrets, tls_channel, unary
from tests.support.serving import PATIENCE, eventually_async

SHOP = "spiffe://cluster.local/ns/shop/sa/shop"
FLOODERS = 8
CALLS_AT_ONCE = 50
GUESSES = 1500
AGENTS = 10
STREAMS_PER_TOKEN = 4
STREAMS_ASKED_FOR = 40
SVIDS_PER_HOUR = 5
# What grpcio reports by itself where it writes to a stream that has been refused.
WRITTEN_TOO_LATE = "Internal error from Core"
EXHAUSTED, UNAUTHENTICATED = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAUTHENTICATED


@pytest.fixture(scope="module")
def server(shared_server):
    return shared_server


@pytest.fixture
def strict(serving):
    return serving.start(ca_svids_per_hour=SVIDS_PER_HOUR, ca_streams_per_identity=STREAMS_PER_TOKEN)


def create(channel, token):
    call = unary(channel, ISTIO_CA, "CreateCertificate", IstioCertificateRequest, IstioCertificateResponse)
    return call(IstioCertificateRequest(csr=csr()), timeout=PATIENCE, metadata=[("authorization", f"Bearer {token}")])


def retry_seconds(error):
    """After how many seconds to retry, as google.rpc.RetryInfo in the details of a refusal has it."""
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    (detail,) = Status.FromString(details).details
    info = RetryInfo()
    assert detail.Unpack(info)
    return info.retry_delay.ToMilliseconds() / 1000


async def flood(server, stop):
    """Guess tokens until `stop`, over connections of one address, and return the codes."""
    codes = []

    async def guess(channel, number):
        while not stop.is_set():
            codes.append(await code_of(create(channel, f"guess-{number}-{len(codes)}")))

    async def connection():
        async with tls_channel(server) as channel:
            await asyncio.gather(*(guess(channel, number) for number in range(CALLS_AT_ONCE)))

    await asyncio.gather(*(connection() for _ in range(FLOODERS)))
    return codes


async def test_guessed_tokens_do_not_keep_agents_of_the_same_address_from_enrolling(server):
    stop = asyncio.Event()
    tokens = [server.join_token(f"{CART}-{number}") for number in range(AGENTS)]
    guessing = asyncio.create_task(flood(server, stop))

    async def exhausted():
        return server.metrics().get(
            'meshward_rpcs_total{code="RESOURCE_EXHAUSTED",method="/istio.v1.auth.IstioCertificateService/CreateCertificate"}'
        )

    async def enrol(token):
        async with tls_channel(server) as channel:
            return (await certify(channel, token=token)).spiffe_id

    try:
        await eventually_async(exhausted, "the flood to be refused")
        enrolled = await asyncio.gather(*(enrol(token) for token in tokens))
    finally:
        stop.set()
        codes = await guessing
    assert enrolled == [f"{CART}-{number}" for number in range(AGENTS)]
    assert set(codes) == {UNAUTHENTICATED, EXHAUSTED}


async def test_a_refused_guess_says_when_to_retry(server):
    async with tls_channel(server) as channel:
        refusals = []

        async def guess():
            try:
                await create(channel, "guess")
            except grpc.aio.AioRpcError as error:
                refusals.append(error)

        while not any(error.code() is EXHAUSTED for error in refusals):
            await asyncio.gather(*(guess() for _ in range(CALLS_AT_ONCE)))
            assert len(refusals) < GUESSES
    refused = next(error for error in refusals if error.code() is EXHAUSTED)
    assert 0 < retry_seconds(refused) <= 10


def open_stream(channel, token, *names):
    call = stream_secrets(channel, token)
    return asyncio.create_task(first_answer(call, names)), call


async def first_answer(call, names):
    """The resources of the first answer to a request for `names`, or the code of the refusal."""
    with suppress(grpc.aio.AioRpcError):
        await call.write(request(*names))
        answer = await call.read()
        if answer is not grpc.aio.EOF:
            return answer.resources
    return EXHAUSTED if await call.details() == WRITTEN_TOO_LATE else await call.code()


async def open_streams(channel, token, number):
    """So many streams for the bundle, which uses no token up; those that were opened, and the codes of the others."""
    opened, refused = [], []
    for _ in range(number):
        answering, call = open_stream(channel, token, "ROOTCA")
        answer = await answering
        if isinstance(answer, grpc.StatusCode):
            refused.append(answer)
        else:
            opened.append(call)
    return opened, refused


async def ended(call):
    """The code that an open stream ends with."""
    with suppress(grpc.aio.AioRpcError):
        while await call.read() is not grpc.aio.EOF:
            continue
    return await call.code()


@pytest.mark.parametrize("connect", [tls_channel, plaintext_channel], ids=["TLS", "plaintext"])
async def test_one_token_opens_few_streams_and_they_end_when_it_is_deleted(server, connect):
    token = server.join_token(SHOP)
    async with connect(server) as channel:
        opened, refused = await open_streams(channel, token, STREAMS_ASKED_FOR)
        assert len(opened) == STREAMS_PER_TOKEN
        assert set(refused) == {EXHAUSTED}
        for created in server.items("/v1/join-tokens?limit=1000"):
            if created["spiffe_id"] == SHOP and not created["redeemed_at"]:
                assert server.ask("DELETE", f"/v1/join-tokens/{created['id']}").status_code == 204
        async with asyncio.timeout(PATIENCE):
            assert [await ended(call) for call in opened] == [UNAUTHENTICATED] * STREAMS_PER_TOKEN


async def test_streams_end_when_their_token_expires_unused(server):
    token = server.join_token(SHOP, ttl_seconds=2)
    async with tls_channel(server) as channel:
        opened, _ = await open_streams(channel, token, 1)
        async with asyncio.timeout(PATIENCE):
            assert [await ended(call) for call in opened] == [UNAUTHENTICATED]


async def test_streams_outlive_a_token_that_was_used(server):
    token = server.join_token(SHOP, ttl_seconds=2)
    async with tls_channel(server) as channel:
        (bundle,), _ = await open_streams(channel, token, 1)
        answer, identity = open_stream(channel, token, "default")
        assert not isinstance(await answer, grpc.StatusCode)
        brief = server.join_token(SHOP, ttl_seconds=4)
        (other,), _ = await open_streams(channel, brief, 1)
        async with asyncio.timeout(PATIENCE):
            assert await ended(other) is UNAUTHENTICATED  # by now the first token has expired as well
        for call in (bundle, identity):
            assert not call.done()
            call.cancel()


async def test_an_identity_opens_so_many_streams_and_others_open_theirs(strict):
    async with tls_channel(strict, await join(strict)) as cart, tls_channel(strict, await join(strict, SHOP)) as shop:
        opened, refused = await open_streams(cart, None, STREAMS_ASKED_FOR)
        assert len(opened) == STREAMS_PER_TOKEN
        assert set(refused) == {EXHAUSTED}
        assert len((await open_streams(shop, None, STREAMS_PER_TOKEN))[0]) == STREAMS_PER_TOKEN
        opened.pop().cancel()

        async def reopened():
            return (await open_streams(cart, None, 1))[0]

        await eventually_async(reopened, "a stream that was closed to be free")


async def test_an_identity_is_issued_so_many_svids_and_others_theirs(strict):
    cart, shop = await join(strict), await join(strict, SHOP)
    async with tls_channel(strict, cart) as channel:
        for _ in range(SVIDS_PER_HOUR - 1):
            await certify(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await certify(channel)
        assert refusal.value.code() is EXHAUSTED
        assert 0 < retry_seconds(refusal.value) <= 3600 / SVIDS_PER_HOUR
        answer, _ = open_stream(channel, None, "default")
        assert await answer is EXHAUSTED
        assert len(strict.items(f"/v1/svids?spiffe_id={CART}&limit=100")) == SVIDS_PER_HOUR
    async with tls_channel(strict, shop) as channel:
        await certify(channel)
    assert strict.metrics()['meshward_ca_issuances_total{result="over_budget",surface="istio_ca"}'] == 1
