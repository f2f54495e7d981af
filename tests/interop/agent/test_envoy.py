"""Real Envoy gets its certificates from the agent's socket, serves mTLS with them, and takes a rotation."""

import asyncio
import os
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from app.agent.identity import accept_answer, make_request
from app.agent.options import AgentOptions, TokenSource
from app.agent.run import serve
from app.agent.secrets import HeldSecrets
from app.agent.server import SecretServer
from app.core.clock import SystemClock
from app.core.net import Address
from app.spiffe.subscribers import Subscribers
from app.telemetry.metrics import Metrics
from app.transport.unix_socket import OWNER_ONLY, listening
from tests.assets.certificates import CART, MeshCa
from tests.fakes.mesh_ca import MeshServer
from tests.support.envoy_process import EnvoyProcess
from tests.support.sidecar import ask, bootstrap, client_tls

HOUR = timedelta(hours=1)
DOMAIN = "spiffe://example.org"


@pytest.fixture(scope="module")
def ca():
    return MeshCa()


def identity(ca):
    made = make_request()
    return accept_answer(made.private_key, ca.answer(made.csr, datetime.now(UTC), HOUR), datetime.now(UTC))


def chain_for(ca, key):
    return [ca.leaf(key.public_key(), datetime.now(UTC)), ca.signer.certificate]


@pytest.fixture
def peer(ca):
    """A workload of the mesh that connects to the sidecar."""
    key = ec.generate_private_key(ec.SECP256R1())
    return client_tls(ca.roots, key, chain_for(ca, key))


@asynccontextmanager
async def agent_with(held, metrics, path):
    with listening(path, OWNER_ONLY) as listener:
        server = SecretServer(
            held, metrics, frozenset({os.geteuid()}), Subscribers(SystemClock().monotonic, away_seconds=0)
        )
        await server.start(sock=listener)
        try:
            yield
        finally:
            await server.stop()


@pytest.mark.parametrize(
    ("api_type", "svid", "roots"),
    [("GRPC", "default", "ROOTCA"), ("DELTA_GRPC", "default", "ROOTCA"), ("GRPC", CART, DOMAIN)],
)
async def test_envoy_takes_its_certificate_and_a_rotation_on_the_open_stream(
    ca, peer, metrics, tmp_path, api_type, svid, roots
):
    held = HeldSecrets(SystemClock(), Metrics())
    held.hold(identity(ca))
    path = tmp_path / "sds.sock"
    async with (
        agent_with(held, metrics, path),
        EnvoyProcess.started(bootstrap(path, api_type, svid, roots), tmp_path / "envoy") as envoy,
    ):
        port = await envoy.port_of("mtls")
        status, first = await ask(port, peer)
        assert status == b"HTTP/1.1 200 OK\r\n"
        names = [chain["subject_alt_names"] for entry in await envoy.certificates() for chain in entry["cert_chain"]]
        assert [{"uri": CART}] in names

        held.hold(identity(ca))

        async def rotated():
            _, leaf = await ask(port, peer)
            return leaf.serial_number != first.serial_number

        await envoy.eventually(rotated, "the new certificate to be shown")
        # One stream for each of the two secrets, both still open: the rotation was no reconnection.
        assert await envoy.statistic("cluster.sds.upstream_rq_total") == 2
        assert await envoy.statistic("cluster.sds.upstream_rq_active") == 2
        assert metrics.sds_replies.value("nack") == 0
        assert metrics.sds_replies.value("ack") >= 3


async def test_new_roots_reach_envoy_without_a_restart(ca, peer, metrics, tmp_path):
    held = HeldSecrets(SystemClock(), Metrics())
    held.hold(identity(ca))
    path = tmp_path / "sds.sock"
    other = MeshCa()
    async with (
        agent_with(held, metrics, path),
        EnvoyProcess.started(bootstrap(path), tmp_path / "envoy") as envoy,
    ):
        port = await envoy.port_of("mtls")
        assert (await ask(port, peer))[0] == b"HTTP/1.1 200 OK\r\n"
        held.hold(identity(other))
        key = ec.generate_private_key(ec.SECP256R1())
        new_peer = client_tls(other.roots, key, chain_for(other, key))

        async def accepted():
            try:
                return (await ask(port, new_peer))[0] == b"HTTP/1.1 200 OK\r\n"
            except OSError:
                return False

        await envoy.eventually(accepted, "a peer of the new root to be accepted")


async def test_envoy_refuses_a_client_of_another_root_and_one_without_a_certificate(ca, metrics, tmp_path):
    held = HeldSecrets(SystemClock(), Metrics())
    held.hold(identity(ca))
    path = tmp_path / "sds.sock"
    other, key = MeshCa(), ec.generate_private_key(ec.SECP256R1())
    stranger = client_tls(ca.roots, key, chain_for(other, key))
    async with (
        agent_with(held, metrics, path),
        EnvoyProcess.started(bootstrap(path), tmp_path / "envoy") as envoy,
    ):
        port = await envoy.port_of("mtls")
        for context in (stranger, client_tls(ca.roots)):
            with pytest.raises(OSError):  # whichever side of the handshake notices first
                await ask(port, context)


async def test_a_secret_that_envoy_refuses_is_counted_and_the_previous_one_stays_in_use(ca, peer, metrics, tmp_path):
    held = HeldSecrets(SystemClock(), Metrics())
    good = identity(ca)
    held.hold(good)
    path = tmp_path / "sds.sock"
    async with (
        agent_with(held, metrics, path),
        EnvoyProcess.started(bootstrap(path), tmp_path / "envoy") as envoy,
    ):
        port = await envoy.port_of("mtls")
        mixed = identity(ca)
        # A key that is not the certificate's own: no agent would hold it, and no Envoy takes it.
        broken = type(mixed.svid)(
            mixed.svid.spiffe_id, mixed.svid.chain, good.svid.private_key, mixed.svid.not_before, mixed.svid.not_after
        )
        held.hold(type(mixed)(broken, mixed.bundle))
        await envoy.eventually(lambda: metrics.sds_replies.value("nack") == 1, "Envoy to refuse")
        status, _ = await ask(port, peer)
        assert status == b"HTTP/1.1 200 OK\r\n"
        repaired = identity(ca)
        held.hold(repaired)

        async def shown():
            _, leaf = await ask(port, peer)
            return leaf.not_valid_after_utc == repaired.svid.not_after and metrics.sds_replies.value("nack") == 1

        await envoy.eventually(shown, "the repaired certificate")


async def test_an_agent_from_enrolment_to_rotation_and_through_an_outage(ca, peer, tmp_path):
    mesh = MeshServer(ca, {"token-1"}, ttl=timedelta(seconds=6))
    (tmp_path / "bundle.pem").write_text(ca.roots)
    path = tmp_path / "sds.sock"
    async with mesh.running():
        options = AgentOptions(
            server=Address("127.0.0.1", mesh.port),
            server_name="localhost",
            trust_bundle=tmp_path / "bundle.pem",
            trust_domain=None,
            data_dir=tmp_path / "agent",
            socket=path,
            tokens=TokenSource("token-1"),
            allowed_uids=frozenset({os.geteuid()}),
            metrics_bind=None,
        )
        agent = asyncio.ensure_future(serve(options))
        try:
            async with EnvoyProcess.started(bootstrap(path), tmp_path / "envoy") as envoy:
                port = await envoy.port_of("mtls")
                _, first = await ask(port, peer)

                async def rotated():
                    assert not agent.done(), agent
                    _, leaf = await ask(port, peer)
                    return leaf.serial_number != first.serial_number

                await envoy.eventually(rotated, "a renewal to reach Envoy")
            assert mesh.seen[:2] == ["token-1", CART]
        finally:
            agent.cancel()
            await asyncio.wait({agent})
    assert not path.exists()
