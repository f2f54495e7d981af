"""How calls end: handlers that wait or do not, deadlines, disconnects and the drain."""

import asyncio

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from structlog.testing import capture_logs

from app.core.errors import UnavailableError
from app.core.rates import RateLimit
from app.transport.grpc.routes import UNLIMITED, Authentication, Kind, Prepared, Rpc
from tests.fakes.clock import ManualClock
from tests.fakes.memory_server import MemoryServer, settle

CLIENT = ("127.0.0.1", 5)
HELLO = b"\0\0\0\0\7\x0a\x05hello"
# The methods whose calls take the fast path from the second call of a connection on.
FAST = ("Async", "Sync", "Awaitable")
UNARY = (*FAST, "Limited")


class Service:
    """Answers "hello", or with an error if it has one; waits where the method may, if it is to."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.release.set()
        self.cancelled = 0
        self.error = None
        self.prepared = False

    def rpcs(self):
        def row(method, kind, handler, limit=UNLIMITED, on_error=None):
            return Rpc(
                "a.Service", method, kind, StringValue, StringValue, handler, Authentication.MESH, limit, on_error
            )

        return [
            row("Async", Kind.UNARY, self.unary),
            row("Sync", Kind.UNARY, self.answer),
            row("Awaitable", Kind.UNARY, self.awaitable),
            row("Limited", Kind.UNARY, self.unary, RateLimit(per_second=1000, burst=1000)),
            row("OnError", Kind.UNARY, self.unary, on_error=lambda error: StringValue(value="hello")),
            row("Stream", Kind.SERVER_STREAM, self.stream),
        ]

    def answer(self, _request, context):
        if self.error:
            raise self.error
        return Prepared(StringValue(value="hello").SerializeToString()) if self.prepared else StringValue(value="hello")

    async def unary(self, request, context):
        await self._wait()
        return self.answer(request, context)

    def awaitable(self, request, context):
        return asyncio.ensure_future(self.unary(request, context))

    async def stream(self, request, context):
        yield StringValue(value="hello")
        await self._wait()
        yield self.answer(request, context)

    async def _wait(self):
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


@pytest.fixture
async def service():
    return Service()


@pytest.fixture
async def server(service):
    made = MemoryServer(service.rpcs(), ManualClock())
    yield made
    await made.stop()


async def connected(server, method):
    """Make the calls after which another one takes the fast path, if the method may, and return what makes it."""

    def request(**options):
        return server.request(f"/a.Service/{method}", CLIENT, **options)

    for _ in range(2):
        assert await request().status() == "0"
    return request


def counts(server, method):
    """How many calls ended with each code, without the two that connected."""
    codes = ("OK", "CANCELLED", "DEADLINE_EXCEEDED", "UNAVAILABLE", "INTERNAL")
    found = {code: server.metrics.rpcs.value(f"/a.Service/{method}", code) for code in codes}
    found["OK"] -= 2
    return {code: count for code, count in found.items() if count}


@pytest.mark.parametrize("method", UNARY)
@pytest.mark.parametrize("prepared", [False, True])
async def test_a_unary_handler_may_be_async_or_plain_or_return_an_awaitable(server, service, method, prepared):
    request = await connected(server, method)
    service.prepared = prepared
    exchange = request()
    assert await exchange.status() == "0"
    assert exchange.messages == [HELLO]
    await settle()
    assert counts(server, method) == {"OK": 1}


@pytest.mark.parametrize("method", ["Async", "Awaitable", "Limited"])
async def test_a_response_that_has_to_wait_is_sent_when_it_is_there(server, service, method):
    request = await connected(server, method)
    service.release.clear()
    exchange = request()
    await settle()
    assert exchange.sent == []
    assert counts(server, method) == {}
    service.release.set()
    assert await exchange.status() == "0"
    await settle()
    assert (exchange.messages, counts(server, method)) == ([HELLO], {"OK": 1})


@pytest.mark.parametrize("method", ["Async", "Awaitable", "Limited"])
async def test_a_handler_that_waits_is_cancelled_at_the_deadline(server, service, method):
    request = await connected(server, method)
    service.release.clear()
    exchange = request(headers=[(b"grpc-timeout", b"0m")])
    assert await exchange.status() == "4"
    await settle()
    assert (service.cancelled, counts(server, method)) == (1, {"DEADLINE_EXCEEDED": 1})


@pytest.mark.parametrize("method", ["Async", "Awaitable", "Limited", "Stream"])
async def test_a_handler_that_waits_is_cancelled_when_its_client_disconnects(server, service, method):
    request = await connected(server, method)
    service.release.clear()
    exchange = request()
    await settle()
    exchange.disconnect()
    await settle()
    assert exchange.task.cancelled()
    assert (service.cancelled, counts(server, method)) == (1, {"CANCELLED": 1})


@pytest.mark.parametrize("method", [*UNARY, "Stream"])
@pytest.mark.parametrize("error", [None, UnavailableError("later"), KeyError("a fault")])
async def test_a_disconnect_before_the_response_is_sent_is_no_fault(server, service, method, error):
    request = await connected(server, method)
    service.error = error
    exchange = request()
    exchange.close()
    with capture_logs() as logs:
        await exchange.task
    assert counts(server, method) == {"CANCELLED": 1}
    faults = [entry["event"] for entry in logs if entry["log_level"] == "error"]
    # A stream has no chance to fail: its first message cannot be sent.
    assert faults == (["rpc_failed"] if isinstance(error, KeyError) and method != "Stream" else [])


async def test_a_disconnect_while_a_fallback_response_is_sent_is_no_fault(server):
    await connected(server, "Sync")
    exchange = server.request("/nothing/here", CLIENT)
    exchange.close()
    await exchange.task


@pytest.mark.parametrize("method", UNARY)
async def test_a_disconnect_before_the_request_has_ended_is_no_fault(server, service, method):
    request = await connected(server, method)
    exchange = request(events=[{"type": "http.request", "body": b"\0\0", "more_body": True}])
    await settle()
    with capture_logs() as logs:
        exchange.disconnect()
        await exchange.task
    assert (exchange.sent, counts(server, method), logs) == ([], {"CANCELLED": 1}, [])


@pytest.mark.parametrize("method", [*UNARY, "Stream"])
@pytest.mark.parametrize("error", [OSError("of the handler"), TimeoutError("of the handler")])
async def test_an_os_error_of_the_handler_is_not_taken_for_a_disconnect_or_the_deadline(server, service, method, error):
    request = await connected(server, method)
    service.error = error
    exchange = request()
    with capture_logs() as logs:
        assert await exchange.status() == "13"
        await settle()
    assert counts(server, method) == {"INTERNAL": 1}
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["rpc_failed"]


async def test_on_error_answers_for_a_response_that_fails_after_a_wait(server, service):
    request = await connected(server, "OnError")
    service.release.clear()
    service.error = UnavailableError("the counters cannot be reached")
    exchange = request()
    await settle()
    service.release.set()
    assert await exchange.status() == "0"
    await settle()
    assert (exchange.messages, counts(server, "OnError")) == ([HELLO], {"UNAVAILABLE": 1})


async def test_the_drain_ends_a_server_stream_and_no_unary_call(server, service):
    requests = {method: await connected(server, method) for method in ("Stream", "Awaitable")}
    service.release.clear()
    stream, unary = requests["Stream"](), requests["Awaitable"]()
    await settle()
    server.drain.end_streams()
    assert await stream.status() == "14"
    assert (service.cancelled, unary.sent) == (1, [])
    service.release.set()
    assert await unary.status() == "0"
    await settle()
    assert (counts(server, "Stream"), counts(server, "Awaitable")) == ({"UNAVAILABLE": 1}, {"OK": 1})
