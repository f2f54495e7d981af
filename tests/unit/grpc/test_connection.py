"""What is remembered of a connection, for how long, and for whom."""

from datetime import timedelta

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from app.spiffe.id import SpiffeId
from app.spiffe.x509_svid import parse_certificate
from app.transport.grpc.routes import UNLIMITED, Authentication, Kind, Rpc
from tests.assets.certificates import MeshCa, new_key, pem
from tests.fakes.clock import ManualClock
from tests.fakes.memory_server import MemoryServer

PATH = "/a.Service/Ask"
KEY = new_key()
SIGNER = MeshCa(ManualClock().now(), "cluster.local").signer
CART = "spiffe://cluster.local/ns/shop/sa/cart"


def certificate(spiffe_id):
    now = ManualClock().now()
    return pem(SIGNER.leaf(KEY.public_key(), now - timedelta(days=1), now + timedelta(days=1), (spiffe_id,)))


class Server(MemoryServer):
    """A server of one row, whose calls note the principal."""

    def __init__(self, clock) -> None:
        self.principals = []
        row = Rpc("a.Service", "Ask", Kind.UNARY, StringValue, StringValue, self.ask, Authentication.MESH, UNLIMITED)
        super().__init__([row], clock)

    def ask(self, request, context):
        self.principals.append(context.principal)
        return request

    async def call(self, client, chain=None):
        """Return the status of a call over the connection whose scopes share `client`."""
        return await self.request(PATH, client, chain).status()


@pytest.fixture
async def server(clock):
    made = Server(clock)
    yield made
    await made.stop()


def address():
    """A connection's address: equal to another's, and not the same object."""
    return tuple(["10.0.0.9", 4711])  # noqa: C409 - a literal would be one object


async def test_an_admitted_connection_is_refused_once_its_svid_has_expired(server, clock):
    client, chain = address(), (certificate(CART),)
    assert [await server.call(client, chain) for _ in range(3)] == ["0", "0", "0"]
    clock.advance(86_400)
    assert [await server.call(client, chain) for _ in range(2)] == ["16", "16"]
    assert [str(principal.spiffe_id) for principal in server.principals] == [CART] * 3


async def test_an_admitted_connection_is_refused_once_its_identity_or_certificate_is_banned_and_others_are_not(server):
    shown, other = certificate(CART), certificate("spiffe://cluster.local/ns/shop/sa/other")
    client, stranger = address(), ("10.0.0.10", 4711)
    serial = f"{parse_certificate(shown).serial_number:032x}"
    for banned in (SpiffeId.parse(CART).principal, serial):
        assert [await server.call(client, (shown,)) for _ in range(3)] == ["0", "0", "0"]
        assert [await server.call(stranger, (other,)) for _ in range(2)] == ["0", "0"]
        server.bans.ban(banned)
        assert [await server.call(client, (shown,)) for _ in range(2)] == ["7", "7"]
        assert [await server.call(stranger, (other,)) for _ in range(2)] == ["0", "0"]
        server.bans.ban()
    assert [await server.call(client, (shown,)) for _ in range(2)] == ["0", "0"]
    assert server.metrics.refusals.value("grpc", "banned") == 4


async def test_a_later_connection_from_the_same_address_is_authenticated_again(server):
    assert await server.call(address(), (certificate(CART),)) == "0"
    assert await server.call(address(), ()) == "16"
    assert await server.call(address()) == "16"
    other = "spiffe://cluster.local/ns/shop/sa/other"
    assert await server.call(address(), (certificate(other),)) == "0"
    assert [str(principal.spiffe_id) for principal in server.principals] == [CART, other]


async def test_connections_without_an_address_are_told_apart(server):
    assert await server.call(None, (certificate(CART),)) == "0"
    assert [await server.call(None, ()) for _ in range(2)] == ["16", "16"]
    assert await server.open_requests() == 0


async def test_the_first_request_stays_open_until_connections_drain(server):
    client = ("127.0.0.1", 5)
    assert [await server.call(client) for _ in range(3)] == ["0", "0", "0"]
    assert await server.open_requests() == 1
    server.drain.end_streams()
    assert await server.open_requests() == 1
    server.drain.end_connections()
    assert await server.open_requests() == 0


async def test_a_connection_is_forgotten_when_it_is_closed(server):
    client = ("127.0.0.1", 5)
    for _ in range(2):
        assert await server.call(client) == "0"
        assert await server.open_requests() == 1
        await server.close_connections()
        assert await server.open_requests() == 0


async def test_a_principal_has_the_address_of_its_connection(server):
    assert await server.call(("127.0.0.1", 5)) == "0"
    assert await server.call(address(), (certificate(CART),)) == "0"
    assert [principal.address for principal in server.principals] == ["127.0.0.1:5", "10.0.0.9:4711"]
