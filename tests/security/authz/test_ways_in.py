"""Ways around a policy, each through a real Envoy with the generated bootstrap: none reaches the workload."""

import asyncio
import ssl
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from app.authz.model import AuthzOptions, Matching
from app.core.errors import InvalidInputError
from app.core.net import Address
from app.envoy.bootstrap import bootstrap
from app.envoy.sidecar import ControlPlane, Inbound, Protocol, Sidecar
from app.spiffe.id import SpiffeId
from tests.assets.certificates import MeshCa, key_pem, new_key, pem
from tests.assets.ways_in import (
    AUTHENTICATION,
    CONNECTIONS,
    FORBIDDEN,
    OVERRIDES,
    PASSING,
    POLICIES,
    TCP_POLICIES,
    TOKEN_POLICIES,
    WAYS,
    WAYS_2,
    Way,
    token_ways,
    tokens_that_pass,
)
from tests.fakes.authz import policy
from tests.fakes.engine import WaitingEngine
from tests.fakes.served_authz import served_authz
from tests.support.envoy_process import EnvoyProcess
from tests.support.http2_request import client_connection, exchange
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


# A header that names the way, and how many requests are sent at once: Envoy takes a second to close a connection.
MARK, AT_ONCE = "x-way", 8


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
        self._shown_by = {name: self._shown(name) for name in PEERS} | {"": b""}

    def context(self, name, protocol):
        """How a peer connects, for HTTP of that version."""
        context = client_tls_of(self.roots, self._shown_by[name])
        context.set_alpn_protocols([protocol])
        return context

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


def recommended(service_port, workload_port, peers, check):
    """The generated bootstrap, with certificates in it instead of those that an agent serves."""
    made = deepcopy(
        bootstrap(
            Sidecar(
                SpiffeId.parse(API),
                sds_socket="/unused",
                control_plane=ControlPlane(Address("127.0.0.1", service_port), "unused"),
                inbound=(Inbound("inbound", Address("127.0.0.1", 0), Address("127.0.0.1", workload_port), check),),
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
    if check is Protocol.HTTP:
        # Over plaintext the caller proves no SVID that would say which namespace it asks about.
        filters = static["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
        asking = filters[0]["typed_config"]["http_service"]["authorization_request"]
        asking["headers_to_add"].append({"key": "x-meshward-namespace", "value": "shop"})
    return made


async def send(way, port, peers):
    """The status that a client gets, None if the connection ends without an answer."""
    try:
        async with asyncio.timeout(20):
            context = peers.context(way.peer, "h2" if way.http2 else "http/1.1")
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            try:
                return await (_send_2 if way.http2 else _send_1)(way, reader, writer)
            finally:
                writer.close()
    except (OSError, ssl.SSLError, asyncio.IncompleteReadError):
        return None


async def _send_1(way, reader, writer):
    length = (f"Content-Length: {len(way.body)}",) if way.body and not way.has("transfer-encoding") else ()
    closing = () if way.has("connection") else ("Connection: close",)
    head = [f"{way.method} {way.target} HTTP/1.1", f"Host: {way.host}", *way.headers, *length, *closing, "", ""]
    writer.write("\r\n".join(head).encode("latin-1") + way.body.encode())
    answer = await reader.readuntil(b"\r\n\r\n")
    return int(answer.split()[1])


async def _send_2(way, reader, writer):
    authority = (f":authority: {way.host}",) if way.host else ()
    lines = (f":method: {way.method}", ":scheme: https", *authority, f":path: {way.target}", *way.headers)
    headers, trailers = (
        [(name.encode("latin-1"), value.encode("latin-1")) for name, _, value in (_field(line) for line in given)]
        for given in (lines, way.trailers)
    )
    return await exchange(client_connection(), reader, writer, headers, way.body.encode(), trailers)


def _field(line):
    """Name and value of a header; the colon of a pseudo-header is part of its name."""
    name, colon, value = line[1:].partition(": ")
    return line[0] + name, colon, value


def documents(lines):
    """Policies, each written as its action and its rules."""
    specs = (line.partition(" ") for line in lines.strip().splitlines())
    return "".join(
        policy(f"{{action: {action}, rules: {rules}}}", f"p{number}") for number, (action, _, rules) in enumerate(specs)
    )


@asynccontextmanager
async def protected(directory, text="", change=lambda made: made, check=Protocol.GRPC, **given):
    """A workload behind a real Envoy: what reaches it, the port, the peers, and the service that Envoy asks."""
    workload, peers = Workload(), Peers()
    server = await asyncio.start_server(workload.serve, "127.0.0.1", 0)
    async with server, served_authz(text, **given) as served:
        made = change(recommended(served.port, server.sockets[0].getsockname()[1], peers, check))
        async with EnvoyProcess.started(made, directory) as envoy:
            yield workload, await envoy.port_of("inbound"), peers, served


async def reached(ways, workload, port, peers):
    """Return what reaches the workload: the way, None if it is another request than the one that was sent, and it."""
    numbers = asyncio.Semaphore(AT_ONCE)

    async def sent(number, way):
        async with numbers:
            await send(replace(way, headers=(*way.headers, f"{MARK}: {number};")), port, peers)

    ways = list(ways)
    await asyncio.gather(*(sent(number, way) for number, way in enumerate(ways)))
    heads, workload.heads = workload.heads, []
    marks = (head.partition(f"{MARK}: ")[2].partition(";")[0] for head in heads)
    return [(ways[int(mark)] if mark else None, head) for mark, head in zip(marks, heads, strict=True)]


@pytest.mark.parametrize("check", Protocol)
@pytest.mark.parametrize("matching", Matching)
@pytest.mark.timeout(240)
async def test_no_way_in_reaches_the_workload(tmp_path, matching, check):
    options = AuthzOptions(matching=matching)
    async with protected(tmp_path, documents(POLICIES), check=check, options=options) as (workload, port, peers, _):
        assert len(await reached(PASSING, workload, port, peers)) == len(PASSING)
        assert await reached(WAYS, workload, port, peers) == []
        assert await reached(WAYS_2, workload, port, peers) == []
        overriding = await reached(OVERRIDES, workload, port, peers)
        assert [head for _, head in overriding if any(text in head for text in FORBIDDEN)] == []


@pytest.mark.parametrize("matching", Matching)
@pytest.mark.timeout(240)
async def test_no_token_that_proves_nothing_reaches_the_workload(tmp_path, matching):
    text, options = AUTHENTICATION + documents(TOKEN_POLICIES), AuthzOptions(matching=matching)
    async with protected(tmp_path, text, options=options) as (workload, port, peers, served):
        now = served.clock.now()
        passing = [*tokens_that_pass(now)]
        assert len(await reached(passing, workload, port, peers)) == len(passing)
        assert await reached(token_ways(now), workload, port, peers) == []


async def test_a_check_that_is_not_answered_in_time_denies(tmp_path):
    """The context of a call whose time is over is no reason to let the request pass."""
    engine = WaitingEngine()
    async with protected(tmp_path, engine=engine) as (workload, port, peers, _):
        assert await send(Way("late"), port, peers) == 403
        assert (len(engine.requests), workload.heads) == (1, [])


async def test_a_document_with_a_name_twice_is_refused_and_changes_nothing(tmp_path):
    async with protected(tmp_path, policy("{action: DENY, rules: [{}]}", "all")) as (workload, port, peers, served):
        for twice in ('"action": "DENY", "action": "ALLOW"', '"rules": [{}], "rules": []'):
            metadata = '"metadata": {"name": "all", "namespace": "shop"}, "apiVersion": "security.istio.io/v1"'
            with pytest.raises(InvalidInputError, match="twice"):
                await served.apply(f'{{"kind": "AuthorizationPolicy", {metadata}, "spec": {{{twice}}}}}')
        assert await reached([Way("plain", "/hello")], workload, port, peers) == []


def over_tcp(made):
    """Have the listener ask about connections alone, and hand them on."""
    chain = made["static_resources"]["listeners"][0]["filter_chains"][0]
    http = chain["filters"][0]["typed_config"]
    check = next(each["typed_config"] for each in http["http_filters"] if "grpc_service" in each["typed_config"])
    kept = {name: check[name] for name in ("transport_api_version", "grpc_service", "include_peer_certificate")}
    extensions = "type.googleapis.com/envoy.extensions.filters.network"
    asking = {"@type": f"{extensions}.ext_authz.v3.ExtAuthz", "stat_prefix": "check", **kept}
    cluster = http["route_config"]["virtual_hosts"][0]["routes"][-1]["route"]["cluster"]
    handing = {"@type": f"{extensions}.tcp_proxy.v3.TcpProxy", "stat_prefix": "on", "cluster": cluster}
    chain["filters"] = [{"name": "check", "typed_config": asking}, {"name": "on", "typed_config": handing}]
    return made


@pytest.mark.parametrize("matching", Matching)
async def test_no_connection_that_is_denied_reaches_the_workload(tmp_path, matching):
    options = AuthzOptions(matching=matching)
    async with protected(tmp_path, documents(TCP_POLICIES), over_tcp, options=options) as (workload, port, peers, _):
        ways = [Way("connection", "/hello", peer=peer) for peer in CONNECTIONS]
        found = {way.peer for way, _ in await reached(ways, workload, port, peers)}
        expected = {peer for peer, passes in CONNECTIONS.items() if passes}
        assert found == expected
