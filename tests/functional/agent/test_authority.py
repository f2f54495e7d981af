"""CreateCertificate over real TLS."""

import asyncio
import socket

import pytest
from google.protobuf.wrappers_pb2 import BytesValue
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError

from app.agent.authority import METHOD, MeshAuthority
from app.agent.identity import JoinToken, accept_answer, make_request
from app.core.clock import SystemClock
from app.core.errors import (
    InvalidInputError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
    UnavailableError,
)
from app.core.net import Address
from app.proto.istio import ca_pb2
from tests.assets.certificates import CART, MeshCa
from tests.fakes.mesh_ca import MeshServer

TOKEN = JoinToken("token-1")


@pytest.fixture
def ca():
    return MeshCa()


@pytest.fixture
async def server(ca):
    async with MeshServer(ca, {"token-1"}).running() as server:
        yield server


def authority(server, ca, name="localhost", timeout=5.0):
    return MeshAuthority(Address("127.0.0.1", server.port), name, ca.bundle, timeout)


async def enrolled(server, ca):
    made = make_request()
    answer = await authority(server, ca).certify(made.csr, TOKEN)
    return accept_answer(made.private_key, answer, SystemClock().now())


async def test_it_authenticates_by_token_first_and_by_svid_afterwards(server, ca):
    identity = await enrolled(server, ca)
    made = make_request()
    answer = await authority(server, ca).certify(made.csr, identity)
    assert str(accept_answer(made.private_key, answer, SystemClock().now()).svid.spiffe_id) == CART
    assert server.seen == ["token-1", CART]


async def test_with_an_identity_only_its_bundle_verifies_the_server(server, ca):
    identity = await enrolled(server, ca)
    await authority(server, MeshCa()).certify(make_request().csr, identity)


async def test_a_token_works_once(server, ca):
    await enrolled(server, ca)
    with pytest.raises(UnauthenticatedError, match="unknown, used or expired"):
        await enrolled(server, ca)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
async def test_the_servers_certificate_must_be_for_its_name(server, ca, name):
    await authority(server, ca, name).certify(make_request().csr, TOKEN)


async def test_a_server_of_another_name_does_not_receive_the_token(server, ca):
    with pytest.raises(PreconditionError, match=r"not trusted.*--server-name"):
        await authority(server, ca, "mesh.example.org").certify(make_request().csr, TOKEN)
    assert server.seen == []


async def test_a_server_of_another_root_does_not_receive_the_token(server):
    with pytest.raises(PreconditionError, match=r"not trusted.*check the trust bundle"):
        await authority(server, MeshCa()).certify(make_request().csr, TOKEN)
    assert server.seen == []


async def test_a_workload_whose_svid_has_the_servers_name_receives_no_token(ca):
    """An SVID of the mesh with the DNS name of the control plane, as an entry or a stolen signer may give it."""
    async with MeshServer(ca, {"token-1"}).running(uris=(CART,)) as impostor:
        with pytest.raises(PreconditionError, match=f"it is {CART}, and .* is spiffe://example.org/meshward/server"):
            await authority(impostor, ca).certify(make_request().csr, TOKEN)
        assert impostor.seen == []


@pytest.mark.parametrize("uris", [(CART,), (), ("spiffe://other.org/meshward/server",)])
async def test_an_agent_with_an_identity_renews_at_the_control_plane_alone(server, ca, uris):
    identity = await enrolled(server, ca)
    async with MeshServer(ca).running(uris=uris) as impostor:
        with pytest.raises(PreconditionError, match="is not trusted"):
            await authority(impostor, ca).certify(make_request().csr, identity)
        assert impostor.seen == []


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (Status.UNAUTHENTICATED, UnauthenticatedError),
        (Status.PERMISSION_DENIED, PermissionDeniedError),
        (Status.INVALID_ARGUMENT, InvalidInputError),
        (Status.UNIMPLEMENTED, PreconditionError),
        *[
            (status, UnavailableError)
            for status in (
                Status.CANCELLED,
                Status.UNKNOWN,
                Status.DEADLINE_EXCEEDED,
                Status.RESOURCE_EXHAUSTED,
                Status.FAILED_PRECONDITION,
                Status.ABORTED,
                Status.INTERNAL,
                Status.UNAVAILABLE,
            )
        ],
    ],
)
async def test_a_status_of_the_server_becomes_an_error_of_its_kind_with_its_reason(server, ca, status, kind):
    server.refusal = GRPCError(status, "because")
    with pytest.raises(kind, match=f"{status.name}: because"):
        await authority(server, ca).certify(make_request().csr, TOKEN)


async def test_a_refused_connection_is_unavailable(ca):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(UnavailableError, match="cannot be reached"):
        await MeshAuthority(Address("127.0.0.1", port), "localhost", ca.bundle).certify(make_request().csr, TOKEN)


async def test_a_silent_server_times_out(ca):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent_server = Address("127.0.0.1", silent.getsockname()[1])
        with pytest.raises(UnavailableError, match=r"did not answer in 0\.2 s"):
            await MeshAuthority(silent_server, "localhost", ca.bundle, 0.2).certify(make_request().csr, TOKEN)


async def test_a_server_of_another_protocol_is_unavailable(ca):
    async def answer(reader, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with listener:
        address = listener.sockets[0].getsockname()
        with pytest.raises(UnavailableError, match="cannot be reached"):
            await MeshAuthority(Address(*address), "localhost", ca.bundle, 5).certify(make_request().csr, TOKEN)


async def test_a_name_that_does_not_resolve_is_unavailable(ca):
    with pytest.raises(UnavailableError):
        await MeshAuthority(Address("no-such-host.invalid", 1), "x", ca.bundle, 5).certify(make_request().csr, TOKEN)


class Garbler(MeshServer):
    """Answers with bytes where the client expects text (the field has the same number)."""

    def __mapping__(self):
        return {METHOD: Handler(self._garble, Cardinality.UNARY_UNARY, ca_pb2.IstioCertificateRequest, BytesValue)}

    async def _garble(self, stream):
        await stream.recv_message()
        await stream.send_message(BytesValue(value=b"\xff\xfe"))


async def test_a_malformed_answer_does_not_end_the_agent(ca):
    async with Garbler(ca).running() as server:
        with pytest.raises(UnavailableError, match="sent a malformed certificate chain"):
            await authority(server, ca).certify(make_request().csr, TOKEN)


async def test_running_out_of_file_descriptors_is_treated_as_an_outage(server, ca, monkeypatch):
    def full(*_):
        raise OSError(24, "Too many open files")

    identity = await enrolled(server, ca)
    monkeypatch.setattr("app.agent.authority.os.memfd_create", full)
    with pytest.raises(UnavailableError, match="Too many open files"):
        await authority(server, ca).certify(make_request().csr, identity)
