"""Hostile bytes on the agent's socket: users with access are still served, and others get nothing."""

import asyncio
import os
import struct
from contextlib import asynccontextmanager
from datetime import timedelta

import grpc
import pytest
from envoy.service.discovery.v3 import discovery_pb2

from app.agent.identity import accept_answer, make_request
from app.agent.secrets import HeldSecrets
from app.agent.server import MAX_DENIED_CONNECTIONS, SERVICE, SecretServer
from app.core.clock import SystemClock
from app.spiffe.subscribers import Subscribers
from app.telemetry.metrics import Metrics
from app.transport.unix_socket import ANY_USER, listening
from tests.assets.certificates import MeshCa
from tests.assets.discovery import names_in, request
from tests.fakes.clock import ManualClock
from tests.fakes.raw_http2 import RawClient

PATIENCE = 10
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


@pytest.fixture
def held():
    clock = ManualClock()
    ca, made, now = MeshCa(clock.now()), make_request(), clock.now()
    held = HeldSecrets(clock, Metrics())
    held.hold(accept_answer(made.private_key, ca.answer(made.csr, now, timedelta(hours=1)), now))
    return held


@asynccontextmanager
async def serving(held, path, uids):
    with listening(path, ANY_USER) as listener:
        server = SecretServer(held, Metrics(), frozenset(uids), Subscribers(SystemClock().monotonic, away_seconds=0))
        await server.start(sock=listener)
        try:
            yield
        finally:
            await server.stop()


def fetch(channel, message):
    return channel.unary_unary(
        f"/{SERVICE}/FetchSecrets", response_deserializer=discovery_pb2.DiscoveryResponse.FromString
    )(message, timeout=PATIENCE)


async def still_serves(path):
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        return names_in(await fetch(channel, request("ROOTCA").SerializeToString())) == ["ROOTCA"]


def frame(kind, flags, stream, payload):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack(">I", stream) + payload


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        os.urandom(4096),
        PREFACE + b"\xff" * 4096,
        PREFACE + SETTINGS + frame(1, 4, 1, b"\xff" * 100),
        PREFACE + SETTINGS + frame(0, 0, 1, b"x" * 100),
        PREFACE + SETTINGS + frame(9, 4, 7, b"\x82" * 100),
        PREFACE + SETTINGS * 2000,
    ],
)
async def test_garbage_ends_only_its_own_connection(held, tmp_path, garbage):
    path = tmp_path / "sds.sock"
    async with serving(held, path, {os.geteuid()}):
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(garbage)
        await writer.drain()
        assert await still_serves(path)
        writer.close()


REFUSED_CALLS = {
    "an unknown method": {":path": "/SpiffeWorkloadAPI/FetchX509SVID"},
    "an unknown method of a known service": {":path": f"/{SERVICE}/Nothing"},
    "an invalid timeout": {"grpc-timeout": "soon"},
    "no POST": {":method": "GET"},
    "no content type": {"content-type": None},
    "another content type": {"content-type": "text/plain"},
    "another message encoding": {"content-type": "application/grpc+json"},
    "no trailers": {"te": None},
    "a malformed message": {},
}


@pytest.mark.parametrize("changed", REFUSED_CALLS.values(), ids=REFUSED_CALLS)
async def test_every_refusal_is_a_grpc_response(held, tmp_path, changed):
    """A client in Go takes a response without a content type for a broken connection, and tries again for ever."""
    path = tmp_path / "sds.sock"
    async with serving(held, path, {os.geteuid()}):
        client = RawClient(*await asyncio.open_unix_connection(path))
        stream = await client.open(**({":path": f"/{SERVICE}/FetchSecrets"} | changed))
        await client.send(stream, b"\0\0\0\0\x01\xff", end=True)
        answer = await client.answer(stream)
        await client.close()
    assert answer.headers["content-type"].startswith("application/grpc")
    assert answer.status not in {None, "0"} or answer.headers[":status"] != "200"


@pytest.mark.parametrize("message", [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", os.urandom(200)])
async def test_a_malformed_message_gets_an_error_and_no_secret(held, tmp_path, message):
    path = tmp_path / "sds.sock"
    async with serving(held, path, {os.geteuid()}), grpc.aio.insecure_channel(f"unix:{path}") as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await fetch(channel, message)
        assert await still_serves(path)


async def test_thousands_of_names_are_refused(held, tmp_path):
    path = tmp_path / "sds.sock"
    async with serving(held, path, {os.geteuid()}), grpc.aio.insecure_channel(f"unix:{path}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await fetch(channel, request(*(f"name-{n}" for n in range(5000))).SerializeToString())
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "at most 16" in caught.value.details()


async def test_a_user_without_access_gets_nothing_whatever_it_claims(held, tmp_path):
    path = tmp_path / "sds.sock"
    claims = [
        ("x-forwarded-client-cert", "URI=spiffe://example.org/ns/shop/sa/cart"),
        ("authorization", "Bearer token-1"),
        ("x-uid", "0"),
    ]
    async with serving(held, path, {os.geteuid() + 1}), grpc.aio.insecure_channel(f"unix:{path}") as channel:
        call = channel.unary_unary(f"/{SERVICE}/FetchSecrets")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(request("default").SerializeToString(), metadata=claims, timeout=PATIENCE)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_user_without_access_cannot_exhaust_the_descriptors(held, tmp_path):
    path = tmp_path / "sds.sock"
    async with serving(held, path, {os.geteuid() + 1}):
        connections = [await asyncio.open_unix_connection(path) for _ in range(80)]
        ended = [asyncio.ensure_future(reader.read()) for reader, _ in connections]
        for cut_off in asyncio.as_completed(ended, timeout=PATIENCE):
            assert await cut_off == b""
            if sum(reading.done() for reading in ended) == len(ended) - MAX_DENIED_CONNECTIONS:
                break
        for _, writer in connections:
            writer.close()
        await asyncio.wait(ended, timeout=PATIENCE)
