"""Real Envoy takes its certificates from the control plane itself, with no agent beside it."""

import pytest

from tests.support.callers import CART, join
from tests.support.envoy_process import EnvoyProcess
from tests.support.sidecar import ask, client_tls_of, secret, sidecar

# Half of it is the time between two rotations, of what is pushed as of the server's own certificate.
TTL = "6s"
NEWS = "spiffe://cluster.local/ns/shop/sa/news"
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def server(serving):
    return serving.start(ca_svid_default_ttl=TTL, ca_svid_max_ttl="1h")


@pytest.fixture
async def peer(server):
    """A workload of the mesh that connects to the sidecar."""
    identity = await join(server, NEWS, ttl_seconds=600)
    return client_tls_of(server.roots.decode(), identity.key + identity.chain)


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


async def rotates(envoy, port, peer, times=2):
    """The sidecar shows one certificate after the other, each of them good."""
    shown = set()

    async def rotated():
        status, leaf = await ask(port, peer)
        assert status == OK
        shown.add(leaf.serial_number)
        return len(shown) > times

    await envoy.eventually(rotated, f"{times} rotations")


@pytest.mark.parametrize("api_type", ["GRPC", "DELTA_GRPC"])
async def test_a_join_token_opens_a_stream_of_secrets_that_stays_open(server, peer, tmp_path, api_type):
    svid, roots = (secret(name, api_type, server.join_token(CART)) for name in ("default", "ROOTCA"))
    async with EnvoyProcess.started(sidecar(address(server.plaintext_port), svid, roots), tmp_path / "envoy") as envoy:
        await rotates(envoy, await envoy.port_of("mtls"), peer)
        assert await envoy.statistic("cluster.sds.upstream_rq_total") == 2
        assert await envoy.statistic("cluster.sds.upstream_rq_active") == 2
    assert 'meshward_sds_replies_total{reply="nack"}' not in server.metrics()
    assert server.metrics()['meshward_sds_replies_total{reply="ack"}'] >= 3


@pytest.mark.parametrize("api_type", ["GRPC", "DELTA_GRPC"])
async def test_an_svid_opens_streams_across_rotations_of_the_server(server, peer, tmp_path, api_type):
    identity = await join(server, ttl_seconds=600)
    tls = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": "localhost",
        "common_tls_context": {
            "alpn_protocols": ["h2"],
            "tls_certificates": [
                {
                    "certificate_chain": {"inline_string": identity.chain.decode()},
                    "private_key": {"inline_string": identity.key.decode()},
                }
            ],
            "validation_context": {
                "trusted_ca": {"inline_string": server.roots.decode()},
                "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": "localhost"}}],
            },
        },
    }
    bootstrap = sidecar(
        address(server.tls_port),
        secret("default", api_type),
        secret("ROOTCA", api_type),
        transport_socket={"name": "tls", "typed_config": tls},
    )
    async with EnvoyProcess.started(bootstrap, tmp_path / "envoy") as envoy:
        await rotates(envoy, await envoy.port_of("mtls"), peer, times=3)
    assert 'meshward_sds_replies_total{reply="nack"}' not in server.metrics()


async def test_an_unauthenticated_sidecar_gets_nothing(server, peer, tmp_path):
    bootstrap = sidecar(address(server.plaintext_port), secret("default", "GRPC"), secret("ROOTCA", "GRPC", "wrong"))
    async with EnvoyProcess.started(bootstrap, tmp_path / "envoy", wait_ready=False) as envoy:

        async def refused():
            return any("StreamSecrets" in name and "UNAUTHENTICATED" in name for name in server.metrics())

        await envoy.eventually(refused, "a refusal")
        assert await envoy.certificates() == []
        with pytest.raises(OSError):
            await ask(await envoy.port_of("mtls"), peer)
