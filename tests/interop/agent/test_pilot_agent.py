"""Istio's pilot-agent, which runs a real Envoy: modes in which it keeps its identity, and the one in which it does not.

Its paths are relative to the directory that it is started in.
"""

import asyncio
import json
import os
import socket
import tempfile
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.agent.options import AgentOptions, TokenSource
from app.agent.run import serve
from app.core.net import Address
from app.demo.place import envoy_binary
from tests.assets.jwts import ISSUER, jwks, token
from tests.support.callers import CART, join
from tests.support.envoy_process import EnvoyProcess, write_bootstrap
from tests.support.kube import kube_cluster
from tests.support.peers import PILOT_AGENT
from tests.support.serving import eventually_async
from tests.support.sidecar import ask, bootstrap, client_tls_of

pytestmark = pytest.mark.peer

SOCKET = "var/run/secrets/workload-spiffe-uds/socket"
# Half of it is the time between two renewals.
TTL_SECONDS = 8
ROTATIONS = 2
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def server(serving):
    """Its own certificate lasts, so that connections stay open from one renewal to the next."""
    server = serving.start()
    entry = {"spiffe_id": CART, "x509_svid_ttl_seconds": TTL_SECONDS}
    assert server.ask("POST", "/v1/entries", json=entry).status_code == 201
    return server


@pytest.fixture
def home():
    """Where it runs. The path of its socket is long, and pytest's own directories would make it too long."""
    with tempfile.TemporaryDirectory(prefix="mw-") as name:
        yield Path(name)


@pytest.fixture
async def peer(server):
    """A workload of the mesh that connects to the sidecar."""
    identity = await join(server, "spiffe://cluster.local/ns/shop/sa/news", ttl_seconds=600)
    return client_tls_of(server.roots.decode(), identity.key + identity.chain)


def write(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@asynccontextmanager
async def pilot_agent(server, home, **environment):
    """The Envoy that it runs, with a bootstrap of our own whose secrets come from its SDS socket."""
    port = free_port()
    program = PILOT_AGENT.required()
    write_bootstrap(bootstrap(home / SOCKET), home)
    envoy = write(home / "envoy", f'#!/bin/sh\nexec {envoy_binary()} "$@" --admin-address-path {home}/admin\n'.encode())
    envoy.chmod(0o755)
    proxy = {
        "binaryPath": str(envoy),
        "customConfigFile": str(home / "bootstrap.json"),
        "controlPlaneAuthPolicy": "NONE",
        "concurrency": 1,
        # It has to have both; there it asks its Envoy to drain, whose admin port is another one here.
        "statusPort": port,
        "proxyAdminPort": port,
        "terminationDrainDuration": "1s",
    }
    outside = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    with (home / "envoy.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(str(program), "proxy", "sidecar"),
            env={
                **outside,
                "CA_ADDR": f"localhost:{server.tls_port}",
                "SECRET_TTL": f"{TTL_SECONDS}s",
                "PROXY_CONFIG": json.dumps(proxy),
                "POD_NAME": "cart-1",
                "POD_NAMESPACE": "shop",
                **environment,
            },
            cwd=home,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    async with EnvoyProcess.run_by(process, home) as envoy:
        yield envoy


async def rotates(envoy, peer):
    """Requests pass, with one certificate after the other."""
    port, shown = await envoy.port_of("mtls"), set()

    async def rotated():
        status, leaf = await ask(port, peer)
        assert status == OK
        shown.add(leaf.serial_number)
        return len(shown) > ROTATIONS

    await envoy.eventually(rotated, f"{ROTATIONS} rotations", 6 * TTL_SECONDS)


def put_token(server, home):
    write(home / "var/run/secrets/tokens/istio-token", server.join_token(CART).encode())


async def test_in_vm_mode_it_renews_with_the_certificate_that_it_has(server, peer, home):
    put_token(server, home)
    write(home / "certs/root-cert.pem", server.roots)
    certs = str(home / "certs")
    async with pilot_agent(server, home, PROV_CERT=certs, OUTPUT_CERTS=certs) as envoy:
        await rotates(envoy, peer)
    assert {record["spiffe_id"] for record in server.items(f"/v1/svids?spiffe_id={CART}")} == {CART}


async def test_on_the_socket_of_our_agent_it_needs_no_token(server, peer, home):
    PILOT_AGENT.required()
    (home / SOCKET).parent.mkdir(parents=True)
    agent = asyncio.ensure_future(
        serve(
            AgentOptions(
                server=Address("127.0.0.1", server.tls_port),
                server_name="localhost",
                trust_bundle=server.directory / "bundle.pem",
                trust_domain=None,
                data_dir=home / "agent",
                socket=home / SOCKET,
                tokens=TokenSource(server.join_token(CART)),
                allowed_uids=frozenset({os.geteuid()}),
                metrics_bind=None,
            )
        )
    )

    async def is_served():
        assert not agent.done(), agent
        return (home / SOCKET).exists()

    try:
        await eventually_async(is_served, "the socket")
        async with pilot_agent(server, home) as envoy:
            await rotates(envoy, peer)
            assert not agent.done(), agent
    finally:
        agent.cancel()
        await asyncio.wait({agent})


@contextmanager
def verified_by_keys(directory):
    """Settings that verify tokens by their issuer's keys, and a token."""
    (directory / "jwks.json").write_bytes(jwks())
    issuers = json.dumps([{"issuer": ISSUER, "jwks": str(directory / "jwks.json")}])
    yield {"ca_jwt_issuers": issuers}, token(datetime.now(UTC))


@contextmanager
def reviewed_by_api_server(directory):
    """Settings that have a real API server review tokens, and one that it made for a pod."""
    with kube_cluster(directory / "kube") as cluster:
        cluster.service_account("shop", "cart")
        cluster.pod("shop", "cart-1", "cart", "node-1")
        settings = {"kubernetes_api": "kubeconfig", "kubernetes_kubeconfig": cluster.kubeconfig()}
        yield settings | {"kubernetes_require_pod": "true"}, cluster.token("shop", "cart", pod="cart-1")


@pytest.mark.parametrize("proof", [verified_by_keys, reviewed_by_api_server])
async def test_in_its_default_mode_it_renews_with_its_service_account_token(serving, home, tmp_path, proof):
    PILOT_AGENT.required()
    with proof(tmp_path) as (settings, presented):
        server = serving.start(**settings)
        write(home / "var/run/secrets/tokens/istio-token", presented.encode())
        await keeps_its_identity(server, home)


async def keeps_its_identity(server, home):
    """With certificates that live a little longer than elsewhere here, for an API server shares the processors."""
    write(home / "var/run/secrets/istio/root-cert.pem", server.roots)
    news = await join(server, "spiffe://cluster.local/ns/shop/sa/news", ttl_seconds=600)
    async with pilot_agent(server, home, SECRET_TTL="12s") as envoy:
        await rotates(envoy, client_tls_of(server.roots.decode(), news.key + news.chain))
    assert len(server.items(f"/v1/svids?spiffe_id={CART}")) > ROTATIONS


async def test_in_its_default_mode_with_a_join_token_it_loses_its_identity_at_the_first_renewal(server, peer, home):
    """With nothing but a join token, which is used up."""
    put_token(server, home)
    write(home / "var/run/secrets/istio/root-cert.pem", server.roots)
    async with pilot_agent(server, home) as envoy:
        status, first = await ask(await envoy.port_of("mtls"), peer)
        assert status == OK

        async def refused():
            return any("token_refused" in name for name in server.metrics())

        await envoy.eventually(refused, "a renewal to be refused", 4 * TTL_SECONDS)
        (issued,) = server.items(f"/v1/svids?spiffe_id={CART}")
        assert int(issued["serial"], 16) == first.serial_number
