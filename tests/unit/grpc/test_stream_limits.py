"""What callers that have proven nothing may hold: streams, unfinished requests, and the time for a request."""

import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest

from app.core.errors import ResourceExhaustedError
from app.spiffe.principal import Credential, Principal
from app.transport.grpc import call as call_module
from app.transport.grpc.admission import OpenStreams
from app.transport.grpc.health import Health
from app.transport.grpc.reflection import MAX_REQUESTS_PER_STREAM, Reflection
from app.transport.grpc.routes import MAX_REQUEST_BYTES, UNLIMITED, Authentication
from app.transport.grpc.status import Code, RpcError
from app.transport.grpc.wire import UNPROVEN_SHARE, BufferBudget, FrameReader, frame
from tests.fakes.clock import ManualClock
from tests.fakes.memory_server import MemoryServer, settle

CLIENT = ("127.0.0.1", 5)
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


@pytest.fixture
async def server():
    rows = [
        *Health(frozenset()).rpcs(Authentication.PUBLIC, UNLIMITED),
        *Reflection(["a.Service"]).rpcs(Authentication.PUBLIC, UNLIMITED),
    ]
    server = MemoryServer(rows, ManualClock())
    yield server
    await server.stop()


def part(body, *, more=True):
    return {"type": "http.request", "body": body, "more_body": more}


def test_streams_are_limited_by_address_and_in_all():
    streams = OpenStreams(public=3, per_address=2)

    def slot(host, port=1):
        return streams.slot(Principal(Credential.NONE, address=f"{host}:{port}"))

    first, second, third = slot("a"), slot("a", 2), slot("b")
    with first, second:
        with pytest.raises(ResourceExhaustedError, match="of this address"), slot("a", 3):
            raise AssertionError
        with third, pytest.raises(ResourceExhaustedError, match="of public services"), slot("c"):
            raise AssertionError
    with slot("a"), slot("a"), slot("c"):
        pass


async def test_public_streams_are_counted_before_their_request_is_read(server):
    held = [server.request(WATCH, CLIENT, events=()) for _ in range(64)]
    await settle()
    refused = server.request(WATCH, CLIENT, events=())
    assert await refused.status() == str(Code.RESOURCE_EXHAUSTED.value)
    held[0].task.cancel()
    await settle()
    again = server.request(WATCH, CLIENT)
    await settle()
    assert again.messages


@pytest.mark.parametrize("path", [CHECK, WATCH, REFLECTION])
async def test_a_public_request_is_short(server, path):
    length = MAX_REQUEST_BYTES[Authentication.PUBLIC] + 1
    announced = server.request(path, CLIENT, events=[part(b"\0" + length.to_bytes(4))])
    assert await announced.status() == str(Code.RESOURCE_EXHAUSTED.value)


async def test_a_request_that_does_not_arrive_ends_the_call(server, monkeypatch):
    monkeypatch.setattr(call_module, "REQUEST_SECONDS", 0.0)
    for path in (CHECK, WATCH, REFLECTION):
        for events in ((), [part(b"\0\0\0\0\7abc")]):
            late = server.request(path, CLIENT, events=events)
            assert await late.status() == str(Code.DEADLINE_EXCEEDED.value), path


async def test_a_reflection_stream_answers_a_bounded_number_of_requests(server):
    asked = server.request(REFLECTION, CLIENT, events=[part(frame(b"")) for _ in range(MAX_REQUESTS_PER_STREAM + 1)])
    assert await asked.status() == str(Code.RESOURCE_EXHAUSTED.value)
    assert len(asked.messages) == MAX_REQUESTS_PER_STREAM


def test_unfinished_messages_share_one_budget():
    budget = BufferBudget(max_bytes=100)
    proven, stranger = FrameReader(budget=budget), FrameReader(budget=budget, proven=False)
    stranger.feed(b"\0\0\0\0\x40" + b"x" * (100 // UNPROVEN_SHARE - 5))
    with pytest.raises(RpcError) as refused:
        stranger.feed(b"x")
    assert refused.value.code is Code.RESOURCE_EXHAUSTED
    proven.feed(b"\0\0\0\0\x60" + b"x" * 60)
    with pytest.raises(RpcError):
        FrameReader(budget=budget).feed(b"\0\0\0\0\x60" + b"x" * 40)
    proven.release()
    stranger.release()
    whole = FrameReader(budget=budget)
    assert whole.feed(frame(b"x" * 90)) == [b"x" * 90]
    assert FrameReader(budget=budget).feed(b"\0\0\0\0\x60" + b"x" * 90) == []


async def test_a_call_that_ends_gives_back_what_it_held(server):
    unfinished = [server.request(CHECK, CLIENT, events=[part(b"\0\0\0\x0f\xff" + b"x" * 4000)]) for _ in range(3)]
    await settle()
    assert server.budget.held == 3 * 4005
    for exchange in unfinished:
        exchange.disconnect()
    await settle()
    assert server.budget.held == 0


def test_the_request_of_a_health_check_fits():
    assert len(HealthCheckRequest(service="x" * 256).SerializeToString()) < MAX_REQUEST_BYTES[Authentication.PUBLIC]
