"""What is remembered of a connection, for how long, and for whom."""

import asyncio

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from app.spiffe.id import TrustDomain
from app.telemetry.metrics import Metrics
from app.transport.grpc.admission import Authenticator, RateLimiter
from app.transport.grpc.application import GrpcApplication
from app.transport.grpc.routes import UNLIMITED, Authentication, Kind, Rpc
from app.transport.mesh import MeshApplication
from tests.fakes.clock import ManualClock
from tests.unit.grpc.test_admission import CART, certificate

PATH = "/a.Service/Ask"


class Server:
    """An application, and connections to it as an ASGI server has them."""

    def __init__(self, clock) -> None:
        self.callers = []
        authenticator = Authenticator(trust_domain=TrustDomain("cluster.local"), clock=clock, attestors=())
        row = Rpc("a.Service", "Ask", Kind.UNARY, StringValue, StringValue, self.ask, Authentication.MESH, UNLIMITED)
        grpc = GrpcApplication(
            [row], authenticator=authenticator, limiter=RateLimiter(clock.monotonic), metrics=Metrics()
        )
        self.application, self.drain = MeshApplication(grpc, [], authenticator).generation()
        self.held = set()

    def ask(self, request, context):
        self.callers.append(context.principal.spiffe_id)
        return request

    async def call(self, client, chain=None):
        """Return the status of a call over the connection whose scopes share `client`."""
        extensions = {"http.response.trailers": {}}
        if chain is not None:
            extensions["tls"] = {"client_cert_chain": chain, "client_cert_error": None}
        scope = {
            "type": "http",
            "http_version": "2",
            "method": "POST",
            "path": PATH,
            "client": client,
            "headers": [(b"content-type", b"application/grpc"), (b"te", b"trailers")],
            "extensions": extensions,
        }
        requests = [{"type": "http.request", "body": b"\0\0\0\0\0", "more_body": True}, {"type": "http.request"}]
        answered = asyncio.get_running_loop().create_future()

        async def receive():
            return requests.pop(0)

        async def send(event):
            for name, value in event.get("headers", ()):
                if name == b"grpc-status":
                    answered.set_result(value.decode())

        task = asyncio.create_task(self.application(scope, receive, send))
        self.held.add(task)
        return await answered

    async def end(self):
        self.drain.end_streams()
        self.drain.end_connections()
        await asyncio.gather(*self.held)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
async def server(clock):
    made = Server(clock)
    yield made
    await made.end()


def address():
    """A connection's address: equal to another's, and not the same object."""
    return tuple(["10.0.0.9", 4711])  # noqa: C409 - a literal would be one object


async def test_a_remembered_caller_is_refused_once_its_svid_has_ended(server, clock):
    client, chain = address(), (certificate(CART),)
    assert [await server.call(client, chain) for _ in range(3)] == ["0", "0", "0"]
    clock.advance(86_400)
    assert [await server.call(client, chain) for _ in range(2)] == ["16", "16"]
    assert [str(caller) for caller in server.callers] == [CART] * 3


async def test_who_comes_from_the_same_address_later_is_not_taken_for_who_came_first(server):
    assert await server.call(address(), (certificate(CART),)) == "0"
    assert await server.call(address(), ()) == "16"
    assert await server.call(address()) == "16"
    other = "spiffe://cluster.local/ns/shop/sa/other"
    assert await server.call(address(), (certificate(other),)) == "0"
    assert [str(caller) for caller in server.callers] == [CART, other]


async def test_connections_without_an_address_are_not_taken_for_one(server):
    assert await server.call(None, (certificate(CART),)) == "0"
    assert [await server.call(None, ()) for _ in range(2)] == ["16", "16"]
    assert await held(server) == 0


async def held(server):
    """How many requests stay, once everything has run that can."""
    for _ in range(5):
        await asyncio.sleep(0)
    return sum(not task.done() for task in server.held)


async def test_the_first_request_stays_until_connections_may_end(server):
    client = ("127.0.0.1", 5)
    assert [await server.call(client) for _ in range(3)] == ["0", "0", "0"]
    assert await held(server) == 1
    server.drain.end_streams()
    assert await held(server) == 1
    server.drain.end_connections()
    assert await held(server) == 0


async def test_a_connection_is_forgotten_when_it_is_closed(server):
    client = ("127.0.0.1", 5)
    for _ in range(2):
        assert await server.call(client) == "0"
        assert await held(server) == 1
        for task in server.held:
            task.cancel()
        assert await held(server) == 0
        server.held.clear()
