"""What each hot path costs in this process, without a network: a Check against more and more policies, the readings of
paths that a client chose, a ShouldRateLimit, a CreateCertificate on SQLite, and an SDS answer.

Each figure is the best of several rounds, so that another process on the machine counts as little as it can.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import cycle
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest

from app.authz.rpc.check import AuthorizationRpc
from app.authz.rules.paths import MAX_PATH_LENGTH, read_path
from app.ca.rpc.istio import IstioCertificates
from app.envoy.sds import SecretDiscovery
from app.main.parts import Parts
from app.proto.istio.ca_pb2 import IstioCertificateRequest
from app.quota.rpc.ratelimit import RateLimitRpc
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Credential, Principal
from app.telemetry import logs
from app.transport.grpc.context import CallContext
from app.transport.grpc.peer import Peer
from bench.calls import CHECK, SHOULD_RATE_LIMIT, SOURCE, check_request, limit_requests
from bench.loaded import load_limits, load_policies, loaded_parts

ROUNDS = 7
POLICY_COUNTS = (1, 100, 1000)
WEB = SpiffeId.parse(SOURCE)
PEER = Peer("127.0.0.1:1", local=True, tls=False)


async def best(name: str, calls: int, call: Callable[[], Awaitable[Any]]) -> None:
    """Print the least microseconds that a call took on average over one of the rounds."""
    figures = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(calls):
            await call()
        figures.append((time.perf_counter() - started) / calls * 1e6)
    print(f"{name:<52}{min(figures):>10.1f} µs{1e6 / min(figures):>12,.0f} calls/s")


async def checks(parts: Parts) -> None:
    """Measure Check from its serialized request to its serialized answer."""
    rpc = AuthorizationRpc(parts.policies)
    context = CallContext(CHECK.path, PEER)
    message = check_request()

    async def call() -> None:
        answer = rpc.Check(message, context)
        answer.SerializeToString()

    applied = 0
    for count in POLICY_COUNTS:
        await load_policies(parts, applied, count - applied)
        applied = count
        await best(f"Check, {count} {'policy' if count == 1 else 'policies'}", 2_000, call)


async def path_readings() -> None:
    """Measure the reading of paths that are not remembered: an ordinary one, one that can be misread, and the worst."""
    longest = MAX_PATH_LENGTH - 1
    for name, unit in (
        ("ordinary, 257 characters", ("/items" * 43)[:257]),
        ("encoded slashes, 260 characters", "/items%2Fa" * 26),
        ("8 KiB, few readings", "/" + ("%2525" * longest)[: longest - longest % 5]),
        ("8 KiB, too many readings", "/" + ('%22"%25%252e%252e%252f' * longest)[: longest - longest % 22]),
        ("60 KB", "/" + "%252541" * 8_600),
    ):

        async def call(path: str = unit) -> None:
            read_path(path)

        await best(f"Readings of a path, {name}", 50, call)


async def limits(parts: Parts) -> None:
    """Measure ShouldRateLimit with two descriptors: for one user, and for more than are remembered."""
    rpc = RateLimitRpc(parts.quotas, parts.metrics)
    context = CallContext(SHOULD_RATE_LIMIT.path, PEER)
    for count, users in ((10, 1), (10_000, 1), (10_000, 10_000)):
        await load_limits(parts, count)
        messages = cycle(limit_requests(users))

        async def call(messages: Iterator[bytes] = messages) -> None:
            rpc.ShouldRateLimit(next(messages), context)

        await best(f"ShouldRateLimit, {count:,} limits, {users:,} user{'s' if users > 1 else ''}", 2_000, call)


async def certificates(parts: Parts) -> None:
    """Measure CreateCertificate, recorded on SQLite with every write synced, and an SDS answer with a key made here."""
    context = CallContext("/m", PEER, principal=Principal(Credential.SVID, WEB))
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    asked = IstioCertificateRequest(csr=csr.public_bytes(serialization.Encoding.PEM).decode())
    rpc, secrets = (
        IstioCertificates(parts.ca.issuance),
        SecretDiscovery(parts.ca.secrets, parts.metrics, parts.ca.subscribers),
    )
    await best("CreateCertificate, P-256, recorded on SQLite", 100, lambda: rpc.create_certificate(asked, context))
    names = DiscoveryRequest(resource_names=["default", "ROOTCA"])
    await best("FetchSecrets, key and SVID made, recorded", 100, lambda: secrets.fetch_secrets(names, context))


async def measure() -> None:
    """Make a control plane without listeners and print the table."""
    async with loaded_parts() as parts:
        print("Hot paths in process, best of", ROUNDS, "rounds")
        await checks(parts)
        await path_readings()
        await limits(parts)
        await certificates(parts)


def main() -> None:
    """Print the table."""
    logs.configure("error", "console")
    asyncio.run(measure())


if __name__ == "__main__":
    main()
