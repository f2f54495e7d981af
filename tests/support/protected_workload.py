"""A workload behind a real Envoy with the generated bootstrap, and clients that send it what no library would."""

import asyncio
import json
import ssl
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from cryptography import x509

from app.core.net import Address
from app.envoy.bootstrap import CHECK_TIMEOUT, bootstrap_json
from app.envoy.sidecar import ControlPlane, Inbound, Protocol, Sidecar
from app.spiffe.id import SpiffeId
from tests.assets.certificates import MeshCa, key_pem, new_key, pem
from tests.fakes.authz import policy
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
# How long a check may take on a machine that does much else.
PATIENT_TIMEOUT = "5s"


class Workload:
    """A server that answers everything, and keeps the heads and trailers of the requests that reached it."""

    def __init__(self):
        self.heads = []

    async def serve(self, reader, writer):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if b"\r\ntransfer-encoding: chunked" in head.lower():
                # Neither chunks of the tests nor trailers have an empty line before their end.
                head += await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head.decode("latin-1").lower())
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            await writer.drain()
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
    text = bootstrap_json(
        Sidecar(
            SpiffeId.parse(API),
            sds_socket="/unused",
            control_plane=ControlPlane(Address("127.0.0.1", service_port), "unused"),
            inbound=(Inbound("inbound", Address("127.0.0.1", 0), Address("127.0.0.1", workload_port), check),),
            labels={"app": "shop"},
        )
    )
    made = json.loads(text.replace(f'"{CHECK_TIMEOUT}"', f'"{PATIENT_TIMEOUT}"'))
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
        asking = check_of(made)["http_service"]["authorization_request"]
        asking["headers_to_add"].append({"key": "x-meshward-namespace", "value": "shop"})
    return made


def check_of(made):
    """The configuration of the check in a bootstrap."""
    manager = made["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    return next(each["typed_config"] for each in manager["http_filters"] if each["name"].endswith(".ext_authz"))


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
