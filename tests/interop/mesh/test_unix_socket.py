"""Real Envoy asks the control plane on its Unix socket, as the generated bootstrap configures it."""

import asyncio
from contextlib import asynccontextmanager

import httpx
import pytest

from app.core.net import Address
from app.envoy.bootstrap import bootstrap
from app.envoy.sidecar import Protocol, sidecar_of
from tests.support.callers import CART
from tests.support.envoy_process import EnvoyProcess

POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: open, namespace: istio-system}
spec: {action: ALLOW, rules: [{to: [{operation: {paths: ["/open"]}}]}]}
"""
REQUESTS = 20


async def answer(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
    await writer.drain()
    writer.close()


@asynccontextmanager
async def workload():
    """The address of a workload that answers every request."""
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield Address(*server.sockets[0].getsockname()[:2])


def plaintext_sidecar(path, workload, check):
    """The generated bootstrap of a sidecar, whose inbound listener takes plaintext here."""
    document = bootstrap(
        sidecar_of(
            spiffe_id=CART,
            control_plane=f"unix:{path}",
            control_plane_name="",
            sds_socket="/run/nobody.sock",
            inbound=[f"127.0.0.1:1={workload}"],
            outbound=[],
            label=[],
            quota_domain="shop",
            check=check,
            admin=None,
        )
    )
    (listener,) = document["static_resources"]["listeners"]
    listener["address"]["socket_address"]["port_value"] = 0
    del listener["filter_chains"][0]["transport_socket"]
    return document


@pytest.mark.parametrize("check", list(Protocol))
async def test_envoy_has_its_checks_answered_on_a_unix_socket(serving, tmp_path, check):
    path = tmp_path / "mesh.sock"
    server = serving.start(mesh_plaintext_bind=f"unix:{path}", authz_unknown_workload="root")
    server.post_policies(POLICY)
    async with workload() as address:
        document = plaintext_sidecar(path, address, check)
        async with EnvoyProcess.started(document, tmp_path / "envoy") as envoy:
            port = await envoy.port_of("inbound-1")
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                statuses = [(await client.get(path)).status_code for path in ("/open", "/closed") * REQUESTS]
    assert statuses == [200, 403] * REQUESTS
