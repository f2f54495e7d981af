"""Fuzzes every RPC and HTTP route in this process: `python -m bench.fuzz [MESSAGES [SEED]]`.

Prints how often each code came, and fails if one is a fault: INTERNAL or UNKNOWN where no contract asks for it, or 5xx.
"""

import asyncio
import logging
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Generator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest
from google.protobuf.message import Message
from starlette.types import ASGIApp

from app.authz.rpc.http import PREFIX
from app.ca.model import Surface
from app.main.parts import Parts
from app.main.routes import route_table
from app.main.rpcs import SERVICES, mount_table, rpc_table
from app.proto.istio.ca_pb2 import IstioCertificateRequest
from app.proto.meshward.downstream_pb2 import SignAuthorityRequest
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Credential, Principal
from app.telemetry import logs
from app.transport.grpc.admission import RateLimiter
from app.transport.grpc.application import GrpcApplication
from app.transport.grpc.health import Health
from app.transport.grpc.routes import Kind, Rpc
from app.transport.grpc.status import Code
from app.transport.mesh import MeshApplication
from app.transport.rest.app import create_app
from app.transport.rest.authentication import TokenAuthenticator, ensure_token, read_token
from app.transport.rest.health import Health as Readiness
from app.transport.rest.routes import Route
from bench.calls import CHECK, DOMAIN, SHOULD_RATE_LIMIT, SOURCE, check_request, limit_requests
from bench.loaded import load_limits, load_policies, loaded_parts
from bench.mutations import METADATA, TEXTS, body, json_body
from bench.policies import policy

MAX_MESSAGES = 1_000_000
DEFAULT_MESSAGES = 100_000
# Requests to the admin API, which is behind its token, for each of the others.
ADMIN_SHARE = 0.05
# What a call may take that does not stream; a stream that is still open after so many turns of the loop is reset.
CALL_SECONDS = 30.0
STREAM_TURNS = 20
# The statuses of envoyproxy/ratelimit, which answers these with UNKNOWN.
UNKNOWN_TEXTS = ("rate limit domain must not be empty", "rate limit descriptor list must not be empty")
LOADED_POLICIES, LOADED_LIMITS = 20, 20
CHECK_HTTP = "HTTP check"
METHODS = ("GET", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "get", "M\xe9", "X" * 300)
HEADERS = (b"x-a", b"host", b"x-forwarded-for", b"x-forwarded-client-cert", b"cookie")
PARAMETERS = ("limit", "cursor", "namespace", "spiffe_id", "x")
PARAMETER = re.compile(r"\{[^}]*\}")
VALUES = [text if isinstance(text, bytes) else text.encode() for text in TEXTS]


@dataclass
class Report:
    """How often each code came by RPC or route, and the faults: what was sent, by number, and what came."""

    codes: dict[str, Counter[str]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def add(self, target: str, code: str, fault: str = "") -> None:
        """Count an answer; `fault` says what is wrong with it."""
        self.codes.setdefault(target, Counter())[code] += 1
        if fault:
            self.faults.append(f"{target}: {fault}")

    @property
    def messages(self) -> int:
        """How many answers were counted."""
        return sum(counter.total() for counter in self.codes.values())


class Arrived:
    """What `receive` returns for an event that is there: like h2corn's, it need not be awaited."""

    def __init__(self, event: dict[str, Any]) -> None:
        self._event = event

    def __await__(self) -> Generator[None, None, dict[str, Any]]:
        yield from ()
        return self._event


class Exchange:
    """One request to an ASGI application, treated as h2corn does, and what is sent back."""

    def __init__(self, application: ASGIApp, scope: dict[str, Any], pieces: Iterable[bytes]) -> None:
        self.status = ""
        self.message = ""
        self._events = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
        self._events.append({"type": "http.request"})
        self.task = asyncio.ensure_future(application(scope, self._receive, self._send))

    async def ended(self) -> str:
        """Return the gRPC status, else that of HTTP, once the application has returned."""
        async with asyncio.timeout(CALL_SECONDS):
            await self.task
        return self.status

    async def reset(self) -> str:
        """Reset the stream unless it ends soon. Return the status, OPEN if there was none yet."""
        for _ in range(STREAM_TURNS):
            if self.task.done():
                break
            await asyncio.sleep(0)
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        return self.status if self.status in Code.__members__ else "OPEN"

    def _receive(self) -> Any:
        return Arrived(self._events.pop(0)) if self._events else asyncio.get_running_loop().create_future()

    async def _send(self, event: Any) -> None:
        if event["type"] == "http.response.start":
            self.status = str(event["status"])
        for name, value in event.get("headers", ()):
            if name == b"grpc-status":
                self.status = Code(int(value)).name
            elif name == b"grpc-message":
                self.message = value.decode()


class Fuzzer:
    """The control plane's applications, and what sends them hostile requests."""

    def __init__(self, parts: Parts, chain: tuple[str, ...], seed: int) -> None:
        self.report = Report()
        self._random = Random(seed)
        self._parts = parts
        health = Health(SERVICES)
        self.rpcs = rpc_table(parts, health)
        # Buckets that are full again at every call: what is fuzzed is not the limit.
        limiter = RateLimiter(count(0.0, 1000.0).__next__)
        grpc = GrpcApplication(self.rpcs, authenticator=parts.authenticator, limiter=limiter, metrics=parts.metrics)
        self._mesh, connections = MeshApplication(grpc, mount_table(parts), parts.authenticator).for_server()
        self._drain = connections.drain
        token = parts.settings.data_dir / "admin.token"
        ensure_token(token)
        self._token = read_token(token).encode()
        self.routes = route_table(parts)
        self._admin = create_app(
            self.routes,
            authenticator=TokenAuthenticator(token),
            health=Readiness({}, parts.clock),
            metrics=parts.metrics,
            metrics_public=True,
        )
        tls = {"client_cert_chain": chain, "client_cert_error": None}
        # A connection with an SVID, and one of a process on this machine, which may present tokens.
        self._connections = [(["10.0.0.7", 1], {"tls": tls}), (["127.0.0.1", 1], {})]
        self._valid = _valid_messages()
        self._bodies = _valid_bodies()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Keep the first request of each connection open, as a server does."""
        path = next(rpc.path for rpc in self.rpcs if rpc.kind is Kind.UNARY)
        first = [Exchange(self._mesh, self._scope(path, number), (b"\0" * 5,)) for number in (0, 1)]
        await asyncio.sleep(0)
        try:
            yield
        finally:
            self._drain.end_streams()
            self._drain.end_connections()
            await asyncio.gather(*(exchange.task for exchange in first))

    async def call(self, rpc: Rpc) -> None:
        """Make one call of `rpc`."""
        descriptor: Any = rpc.request.DESCRIPTOR
        sent = body(self._random, descriptor, self._random.choice(self._valid[descriptor.name]))
        faults = self._internal(rpc)
        scope = self._scope(rpc.path, int(self._random.random() < 0.1), sent.headers)
        exchange = Exchange(self._mesh, scope, sent.pieces)
        status = await (exchange.ended() if rpc.kind is Kind.UNARY else exchange.reset())
        internal = self._internal(rpc) > faults
        allowed = sent.internal if internal else status != "UNKNOWN" or exchange.message in UNKNOWN_TEXTS
        if internal and allowed:
            status = "INTERNAL as specified"
        request = f"{b''.join(sent.pieces)[:300]!r} {sent.headers!r}"
        self.report.add(rpc.path, status, "" if allowed and status else f"{request} → {status} {exchange.message}")

    async def check(self) -> None:
        """Make one check over HTTP."""
        random = self._random
        value = random.choice(VALUES)
        path = random.choice(("/", "/a", quote(value, safe="/%;?"), value.decode("latin-1")))
        headers = [(random.choice(HEADERS), random.choice(VALUES)) for _ in range(random.randrange(4))]
        scope = self._scope(PREFIX + path, random.randrange(2), (*headers, *random.choices(METADATA, k=1)))
        exchange = Exchange(self._mesh, {**scope, "method": random.choice(METHODS)}, (random.randbytes(8),))
        status = await exchange.ended()
        self.report.add(CHECK_HTTP, status, f"{path!r} {headers!r} → {status}" if _is_5xx(status) else "")

    async def administer(self, route: Route) -> None:
        """Make one request to a route of the admin API."""
        random = self._random
        path = PARAMETER.sub(lambda _: self._path_value(), route.path)
        names = random.sample(PARAMETERS, k=random.randrange(3))
        query = "&".join(f"{name}={quote(random.choice(VALUES))}" for name in names).encode()
        content = json_body(random, self._bodies.get((route.method, route.path), {})) if route.method != "GET" else b""
        headers = [(b"authorization", b"Bearer " + self._token), (b"content-type", b"application/json")]
        if random.random() < 0.1:
            headers.append((random.choice((b"if-match", b"if-none-match", b"accept")), random.choice(VALUES)))
        scope = {
            **self._scope(path, 1),
            "http_version": "1.1",
            "scheme": "http",
            "method": route.method,
            "query_string": query,
            "headers": headers,
            "raw_path": quote(path).encode(),
            "root_path": "",
            "server": ("127.0.0.1", 15014),
            "extensions": {},
        }
        exchange = Exchange(self._admin, scope, (content,))
        status = await exchange.ended()
        target = f"{route.method} {route.path}"
        fault = f"{path!r}?{query!r} {headers[2:]!r} {content[:300]!r} → {status}" if _is_5xx(status) else ""
        self.report.add(target, status, fault)

    def _path_value(self) -> str:
        names = ("shop", "cart", "web", DOMAIN, "0" * 32, self._random.choice(VALUES).decode("latin-1"))
        return self._random.choice(names)

    def _scope(self, path: str, connection: int, headers: Iterable[tuple[bytes, bytes]] = ()) -> dict[str, Any]:
        client, extensions = self._connections[connection]
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "2",
            "scheme": "https",
            "method": "POST",
            "path": path,
            "raw_path": path.encode("utf-8", "replace"),
            "query_string": b"",
            "root_path": "",
            "client": client,
            "server": ("127.0.0.1", 15012),
            "headers": [(b"content-type", b"application/grpc"), (b"te", b"trailers"), *headers],
            "extensions": {"http.response.trailers": {}, **extensions},
        }

    def _internal(self, rpc: Rpc) -> float:
        """Return how many calls were faults of our own, even where the caller gets a denial instead."""
        return self._parts.metrics.rpcs.value(rpc.path, Code.INTERNAL.name)


async def fuzz(messages: int, seed: int = 1, admin_requests: int | None = None) -> Report:
    """Send `messages` evenly over all RPCs and the HTTP check, and `admin_requests` over the admin API's routes."""
    source = SpiffeId.parse(SOURCE)
    async with loaded_parts(downstreams=(source,)) as parts:
        await load_policies(parts, 0, LOADED_POLICIES)
        await load_limits(parts, LOADED_LIMITS)
        caller = Principal(Credential.SVID, source)
        issued = await parts.ca.issuance.issue(caller, _csr(), 0, Surface.ISTIO_CA)
        fuzzer = Fuzzer(parts, (issued.chain[0],), seed)
        async with fuzzer.connected():
            for number in range(messages):
                target = number % (len(fuzzer.rpcs) + 1)
                await (fuzzer.call(fuzzer.rpcs[target]) if target < len(fuzzer.rpcs) else fuzzer.check())
            for number in range(int(messages * ADMIN_SHARE) if admin_requests is None else admin_requests):
                await fuzzer.administer(fuzzer.routes[number % len(fuzzer.routes)])
        return fuzzer.report


def _is_5xx(status: str) -> bool:
    return not status or status[0] == "5"


def _csr() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM).decode()


def _valid_messages() -> dict[str, tuple[bytes, ...]]:
    """Return valid requests by the name of their type; those of others are empty."""
    certificate = IstioCertificateRequest(csr=_csr(), validity_duration=3600)
    certificate.metadata.update({"a": {"b": [1, "c"]}})
    secrets = DiscoveryRequest(resource_names=["default", "ROOTCA"])
    delta = DeltaDiscoveryRequest(resource_names_subscribe=["default", "ROOTCA"])
    valid: dict[str, tuple[bytes, ...]] = {
        CHECK.request.DESCRIPTOR.name: (check_request(),),
        SHOULD_RATE_LIMIT.request.DESCRIPTOR.name: limit_requests(5),
    }
    authority = SignAuthorityRequest(csr=_csr(), validity_seconds=3600)
    messages: list[Message] = [certificate, secrets, delta, authority]
    valid.update({message.DESCRIPTOR.name: (message.SerializeToString(),) for message in messages})
    valid["HealthCheckRequest"] = (b"", b"\x0a\x14grpc.health.v1.Health")
    # By file name, by symbol, and the list of services (grpc/reflection/v1/reflection.proto).
    valid["ServerReflectionRequest"] = (b"\x1a\x00", b"\x22\x14grpc.health.v1.Health", b"\x3a\x01*")
    return valid


def _valid_bodies() -> dict[tuple[str, str], Any]:
    """Return the bodies of requests to the admin API that are valid, by method and path."""
    limits = {"domain": DOMAIN, "descriptors": [{"key": "a", "rate_limit": {"unit": "day", "requests_per_unit": 1}}]}
    bodies: dict[tuple[str, str], Any] = {
        ("POST", "/v1/entries"): {"spiffe_id": SOURCE, "x509_svid_ttl_seconds": 3600, "dns_names": ["cart.shop.svc"]},
        ("POST", "/v1/join-tokens"): {"spiffe_id": SOURCE, "ttl_seconds": 60},
        ("PUT", "/v1/quota/configs/{domain:path}"): limits,
    }
    bodies["PUT", "/v1/entries/{entry_id}"] = bodies["POST", "/v1/entries"]
    for method, path in (("POST", ""), ("POST", "/validate"), ("PUT", "/{namespace}/{name}")):
        bodies[method, f"/v1/policies{path}"] = policy(0)
    return bodies


def main(arguments: list[str]) -> int:
    """Print the counts and the faults; return 1 if there is one."""
    messages, seed = int(arguments[0]) if arguments else DEFAULT_MESSAGES, int(arguments[1]) if arguments[1:] else 1
    if not 0 < messages <= MAX_MESSAGES:
        raise SystemExit(f"the number of messages must be from 1 to {MAX_MESSAGES}")
    logs.configure("error", "console")
    logging.disable(logging.WARNING)
    started = time.perf_counter()
    report = asyncio.run(fuzz(messages, seed))
    for target, codes in report.codes.items():
        print(f"{target:<66}", ", ".join(f"{code} {number:,}" for code, number in codes.most_common()))
    for fault in report.faults[:20]:
        print("FAULT", fault)
    took = time.perf_counter() - started
    print(f"{report.messages:,} messages, seed {seed}: {len(report.faults)} faults, {took:.0f} s")
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
