"""Ways around a policy, each through a real Envoy with the generated bootstrap: none reaches the workload."""

import asyncio
import ssl
from copy import deepcopy
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from app.authz.model import AuthzOptions, Matching
from app.core.net import Address
from app.envoy.bootstrap import bootstrap
from app.envoy.sidecar import ControlPlane, Inbound, Sidecar
from app.spiffe.id import SpiffeId
from tests.assets.certificates import MeshCa, key_pem, new_key, pem
from tests.assets.ways_in import FORBIDDEN_HEADERS, OVERRIDES, PASSING, POLICIES, WAYS
from tests.fakes.authz import policy
from tests.fakes.served_authz import served_authz
from tests.support.envoy_process import EnvoyProcess
from tests.support.sidecar import client_tls_of

API = "spiffe://cluster.local/ns/shop/sa/api"
PEERS = {
    "web": ("spiffe://cluster.local/ns/web/sa/front",),
    "cart": ("spiffe://cluster.local/ns/web/sa/cart",),
    "cart2": ("spiffe://cluster.local/ns/web/sa/cart2",),
    "dotted": ("spiffe://cluster.local/ns/w.b/sa/front",),
    "two": ("spiffe://cluster.local/ns/web/sa/front", "spiffe://cluster.local/ns/web/sa/cart"),
    "url": ("https://cluster.local/ns/web/sa/front",),
    "other": ("spiffe://other.example.org/ns/web/sa/cart2",),
    "nul": ("spiffe://cluster.local/ns/web/sa/cart2\0.example.org",),
    "dns": (),
    "subject": (),
}


class Workload:
    """A server that answers everything, and keeps the heads of the requests that reached it."""

    def __init__(self):
        self.heads = []

    async def serve(self, reader, writer):
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.heads.append(head.decode("latin-1").lower())
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                await writer.drain()
                break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


class Peers:
    """The mesh's authority and its peers' certificates."""

    def __init__(self):
        ca = MeshCa(domain="cluster.local")
        self.roots, self._ca = ca.roots, ca
        self.server = self._issue((API,))
        self._contexts = {name: client_tls_of(ca.roots, self._shown(name)) for name in PEERS}
        self._contexts[""] = client_tls_of(ca.roots, b"")

    def context(self, name):
        return self._contexts[name]

    def _shown(self, name):
        dns = ("front.web",) if name == "dns" else ()
        return "".join(self._issue(PEERS[name], dns)).encode()

    def _issue(self, uris, dns=()):
        key = new_key()
        changed = {} if uris or dns else {"names": None}
        subject = x509.Name.from_rfc4514_string("" if uris or dns else "CN=front")
        leaf = self._ca.leaf(
            key.public_key(), datetime.now(UTC), timedelta(hours=1), uris=uris, dns=dns, subject=subject, **changed
        )
        return key_pem(key).decode(), pem(leaf) + self._ca.signer.pem


def recommended(service_port, workload_port, peers):
    """The generated bootstrap, with certificates in it instead of those that an agent serves."""
    made = deepcopy(
        bootstrap(
            Sidecar(
                SpiffeId.parse(API),
                sds_socket="/unused",
                control_plane=ControlPlane(Address("127.0.0.1", service_port), "unused"),
                inbound=(Inbound("inbound", Address("127.0.0.1", 0), Address("127.0.0.1", workload_port)),),
                labels={"app": "shop"},
            )
        )
    )
    static = made["static_resources"]
    tls = static["listeners"][0]["filter_chains"][0]["transport_socket"]["typed_config"]["common_tls_context"]
    del tls["tls_certificate_sds_secret_configs"]
    key, chain = peers.server
    tls["tls_certificates"] = [{"private_key": {"inline_string": key}, "certificate_chain": {"inline_string": chain}}]
    names = tls.pop("combined_validation_context")["default_validation_context"]
    tls["validation_context"] = names | {"trusted_ca": {"inline_string": peers.roots}}
    static["clusters"] = [each for each in static["clusters"] if each["name"] != "sds"]
    for cluster in static["clusters"]:
        cluster.pop("transport_socket", None)
    return made


async def send(way, port, peers):
    """The status that a client gets, None if the connection ends without an answer."""
    try:
        async with asyncio.timeout(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=peers.context(way.peer))
            length = (f"Content-Length: {len(way.body)}",) if way.body else ()
            closing = () if any(line.startswith("Connection:") for line in way.headers) else ("Connection: close",)
            head = [f"{way.method} {way.target} HTTP/1.1", f"Host: {way.host}", *way.headers, *length, *closing, "", ""]
            writer.write("\r\n".join(head).encode("latin-1") + way.body.encode())
            answer = await reader.readuntil(b"\r\n\r\n")
            writer.close()
            return int(answer.split()[1])
    except (OSError, ssl.SSLError, asyncio.IncompleteReadError):
        return None


@pytest.mark.parametrize("matching", Matching)
@pytest.mark.timeout(240)
async def test_no_way_in_reaches_the_workload(tmp_path, matching):
    specs = (line.partition(" ") for line in POLICIES.strip().splitlines())
    text = "".join(
        policy(f"{{action: {action}, rules: {rules}}}", f"p{number}") for number, (action, _, rules) in enumerate(specs)
    )
    workload, peers = Workload(), Peers()
    server = await asyncio.start_server(workload.serve, "127.0.0.1", 0)
    async with server, served_authz(text, options=AuthzOptions(matching=matching)) as served:
        made = recommended(served.port, server.sockets[0].getsockname()[1], peers)
        async with EnvoyProcess.started(made, tmp_path) as envoy:
            port = await envoy.port_of("inbound")
            for way in PASSING:
                assert await send(way, port, peers) == 200, way
            assert len(workload.heads) == len(PASSING)
            workload.heads.clear()
            reached = []
            for way in WAYS:
                await send(way, port, peers)
                if workload.heads:
                    reached.append((way, workload.heads[0]))
                    workload.heads.clear()
            assert reached == []
            for way in OVERRIDES:
                await send(way, port, peers)
            assert [head for head in workload.heads if any(name in head for name in FORBIDDEN_HEADERS)] == []
