"""SDS on a real Unix socket, asked by grpcio."""

import asyncio
import os
import socket
from contextlib import asynccontextmanager
from datetime import timedelta

import grpc
import pytest
from envoy.service.discovery.v3 import discovery_pb2

from app.agent.identity import accept_answer, make_request
from app.agent.secrets import HeldSecrets
from app.agent.server import SERVICE, SecretServer
from app.core.clock import SystemClock
from app.core.errors import InvalidInputError, PreconditionError
from app.spiffe.subscribers import Subscribers
from app.telemetry.metrics import Metrics
from app.transport.unix_socket import ANY_USER, OWNER_ONLY, check_free, listening
from tests.assets.certificates import CART, MeshCa
from tests.assets.discovery import delta, delta_names, names_in, request, secret_of
from tests.fakes.clock import ManualClock

PATIENCE = 10
CLOCK = ManualClock()
CA = MeshCa(CLOCK.now())


def identity(ttl=timedelta(hours=1)):
    made = make_request()
    return accept_answer(made.private_key, CA.answer(made.csr, CLOCK.now(), ttl), CLOCK.now())


@pytest.fixture
def held(clock):
    held = HeldSecrets(clock, Metrics())
    held.hold(identity())
    return held


@asynccontextmanager
async def serving(held, path, uids=None, mode=OWNER_ONLY):
    uids = frozenset({os.geteuid()}) if uids is None else uids
    with listening(path, mode) as listener:
        server = SecretServer(held, Metrics(), uids, Subscribers(SystemClock().monotonic, away_seconds=0))
        await server.start(sock=listener)
        try:
            async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
                yield channel
        finally:
            await server.stop()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sds.sock"


def stream(channel):
    return channel.stream_stream(
        f"/{SERVICE}/StreamSecrets",
        request_serializer=discovery_pb2.DiscoveryRequest.SerializeToString,
        response_deserializer=discovery_pb2.DiscoveryResponse.FromString,
    )()


def delta_stream(channel):
    return channel.stream_stream(
        f"/{SERVICE}/DeltaSecrets",
        request_serializer=discovery_pb2.DeltaDiscoveryRequest.SerializeToString,
        response_deserializer=discovery_pb2.DeltaDiscoveryResponse.FromString,
    )()


def fetch(channel, said):
    return channel.unary_unary(
        f"/{SERVICE}/FetchSecrets",
        request_serializer=discovery_pb2.DiscoveryRequest.SerializeToString,
        response_deserializer=discovery_pb2.DiscoveryResponse.FromString,
    )(said)


async def read(call):
    return await asyncio.wait_for(call.read(), PATIENCE)


async def test_secrets_and_their_rotation_arrive_on_an_open_stream(held, path):
    async with serving(held, path) as channel:
        call = stream(channel)
        await call.write(request("default", "ROOTCA"))
        first = await read(call)
        assert names_in(first) == ["ROOTCA", "default"]
        await call.write(request("default", "ROOTCA", nonce=first.nonce, version=first.version_info))
        held.hold(identity())
        second = await read(call)
        certificate = secret_of(second.resources[1]).tls_certificate
        assert certificate.private_key.inline_bytes == held.identity.svid.private_key
        assert certificate.certificate_chain.inline_bytes.decode() == "".join(held.identity.svid.chain)
        await call.done_writing()
        assert await read(call) is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


async def test_the_delta_variant_pushes_changed_secrets(held, path):
    async with serving(held, path) as channel:
        call = delta_stream(channel)
        await call.write(delta(CART, "ROOTCA"))
        assert delta_names(await read(call)) == ["ROOTCA", CART]
        held.hold(identity())
        assert delta_names(await read(call)) == [CART]
        call.cancel()


async def test_a_fetch_returns_both_secrets(held, path):
    async with serving(held, path) as channel:
        assert names_in(await fetch(channel, request())) == ["ROOTCA", "default"]


async def test_a_rotation_reaches_many_streams(held, path):
    async with serving(held, path) as channel:
        calls = [stream(channel) for _ in range(20)]
        for call in calls:
            await call.write(request("default"))
        await asyncio.gather(*(read(call) for call in calls))
        held.hold(identity())
        versions = {(await read(call)).version_info for call in calls}
        assert len(versions) == 1
        for call in calls:
            call.cancel()


async def test_a_name_of_another_workload_is_refused_with_the_valid_names(held, path):
    async with serving(held, path) as channel:
        call = stream(channel)
        await call.write(request("spiffe://example.org/ns/shop/sa/till"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read(call)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "ask for default" in caught.value.details()


async def test_a_user_without_access_gets_an_error_with_the_reason(held, path):
    async with serving(held, path, uids=frozenset({os.geteuid() + 1})) as channel:
        for said in (request(), request("ROOTCA")):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await fetch(channel, said)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
            assert f"--allow-uid {os.geteuid()}" in caught.value.details()
        for call in (stream(channel), delta_stream(channel)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await read(call)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_an_expired_svid_is_unavailable_on_open_and_new_streams(held, path, clock):
    async with serving(held, path) as channel:
        call = stream(channel)
        await call.write(request("default"))
        await read(call)
        clock.advance(3601)
        held.changed.fire()
        for again in (call, stream(channel)):
            if again is not call:
                await again.write(request("default"))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await read(again)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "expired at 2026-01-01T13:00" in caught.value.details()


async def test_another_service_is_unimplemented(held, path):
    async with serving(held, path) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/istio.v1.auth.IstioCertificateService/CreateCertificate")(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_socket_has_its_permissions_and_is_removed_afterwards(held, path):
    for mode in (OWNER_ONLY, ANY_USER):
        async with serving(held, path, mode=mode):
            assert path.is_socket()
            assert path.stat().st_mode & 0o777 == mode
            assert list(path.parent.iterdir()) == [path]
        assert list(path.parent.iterdir()) == []


def test_the_socket_of_a_dead_agent_is_replaced(path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    assert path.is_socket()
    with listening(path, OWNER_ONLY), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_the_socket_of_a_running_agent_is_refused_and_kept(path):
    with listening(path, OWNER_ONLY), socket.socket(socket.AF_UNIX) as client:
        with (
            pytest.raises(PreconditionError, match=r"another process is listening on .*sds\.sock"),
            listening(path, OWNER_ONLY),
        ):
            pass
        client.connect(str(path))


def test_a_file_at_the_path_of_the_socket_is_refused_and_kept(path):
    path.write_text("precious")
    with pytest.raises(PreconditionError, match="is not a socket"):
        check_free(path)
    assert path.read_text() == "precious"


def test_a_socket_that_another_process_put_there_is_not_removed(path):
    with listening(path, OWNER_ONLY):
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
    assert path.is_socket()


def test_the_socket_of_another_user_is_refused_and_kept(path):
    """As one that a workload made before the agent started, in a directory where everybody may create files."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a socket to another user")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        os.chown(path, 65534, -1)
    with pytest.raises(PreconditionError, match="belongs to user 65534"), listening(path, OWNER_ONLY):
        pass
    assert path.lstat().st_uid == 65534


def test_a_socket_that_another_user_could_replace_is_not_served(path):
    path.parent.chmod(0o777)
    with pytest.raises(PreconditionError, match="other users can write it"), listening(path, OWNER_ONLY):
        pass
    assert not path.exists()


def test_an_unusable_socket_path_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="longer than 107 bytes"):
        check_free(tmp_path / ("x" * 108))
    (tmp_path / "file").touch()
    with pytest.raises(PreconditionError, match="cannot"), listening(tmp_path / "file" / "sds.sock", OWNER_ONLY):
        pass
