"""What each hot path costs in this process, without a network: a Check against more and more policies, a
ShouldRateLimit, a CreateCertificate on SQLite, and an SDS answer.

Each figure is the best of several rounds, so that another process on the machine counts as little as it can.
"""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest

from app.authz.rpc.check import AuthorizationRpc
from app.ca.rpc.istio import IstioCertificates
from app.ca.rpc.sds import SecretDiscovery
from app.core.clock import SystemClock
from app.db.migrate import upgrade
from app.main.parts import Parts, make_parts
from app.proto.istio.ca_pb2 import IstioCertificateRequest
from app.quota.rpc.headers import HeaderStyle
from app.quota.rpc.ratelimit import RateLimitRpc
from app.settings import Settings
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Credential, Principal
from app.telemetry import logs
from app.transport.grpc.context import CallContext
from bench.unary import request

ROUNDS = 7
POLICY_COUNTS = (1, 100, 1000)
WEB = SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/web")


def policy(index: int) -> dict[str, object]:
    """Return one of many policies: every tenth is of the namespace that is asked about."""
    source = {"principals": [f"cluster.local/ns/shop/sa/{'web' if index == 0 else index}"]}
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": f"p{index}", "namespace": "shop" if index % 10 == 0 else f"ns{index % 50}"},
        "spec": {
            "action": "ALLOW",
            "rules": [
                {
                    "from": [{"source": source}],
                    "to": [{"operation": {"methods": ["GET"], "paths": [f"/api/v{index + 1}/*"]}}],
                }
            ],
        },
    }


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
    context = CallContext("/envoy.service.auth.v3.Authorization/Check", "127.0.0.1:1", {})
    message = request()

    async def call() -> None:
        answer = rpc.Check(CheckRequest.FromString(message), context)
        answer.SerializeToString()

    applied = 0
    for count in POLICY_COUNTS:
        await parts.policies.apply([policy(index) for index in range(applied, count)])
        applied = count
        await best(f"Check, {count} {'policy' if count == 1 else 'policies'}", 2_000, call)


async def limits(parts: Parts) -> None:
    """Measure ShouldRateLimit with one descriptor of two entries."""
    descriptors = [
        {"key": "peer", "descriptors": [{"key": "path", "rate_limit": {"unit": "hour", "requests_per_unit": 10**9}}]}
    ]
    await parts.quotas.put("bench", {"domain": "bench", "descriptors": descriptors})
    rpc = RateLimitRpc(parts.quotas, parts.metrics, HeaderStyle.OFF)
    context = CallContext("/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit", "127.0.0.1:1", {})
    asked = RateLimitRequest(domain="bench")
    descriptor = asked.descriptors.add()
    descriptor.entries.add(key="peer", value=str(WEB))
    descriptor.entries.add(key="path", value="/api")
    message = asked.SerializeToString()

    async def call() -> None:
        answer = await rpc.ShouldRateLimit(RateLimitRequest.FromString(message), context)
        answer.SerializeToString()

    await best("ShouldRateLimit, 1 descriptor of 2 entries", 2_000, call)


async def certificates(parts: Parts) -> None:
    """Measure CreateCertificate, recorded on SQLite with every write synced, and an SDS answer with a key made here."""
    context = CallContext("/m", "127.0.0.1:1", {}, tls=True, principal=Principal(Credential.SVID, WEB))
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    asked = IstioCertificateRequest(csr=csr.public_bytes(serialization.Encoding.PEM).decode())
    rpc, secrets = IstioCertificates(parts.ca.issuance), SecretDiscovery(parts.ca.secrets, parts.metrics)
    await best("CreateCertificate, P-256, recorded on SQLite", 100, lambda: rpc.create_certificate(asked, context))
    names = DiscoveryRequest(resource_names=["default", "ROOTCA"])
    await best("FetchSecrets, key and SVID made, recorded", 100, lambda: secrets.fetch_secrets(names, context))


async def measure() -> None:
    """Make a control plane without listeners and print the table."""
    with tempfile.TemporaryDirectory(prefix="meshward-bench-") as directory:
        parts = make_parts(Settings(data_dir=Path(directory)), SystemClock())
        await upgrade(parts.engine)
        await parts.ca.start()
        await parts.policies.load()
        await parts.quotas.load()
        print("Hot paths in process, best of", ROUNDS, "rounds")
        await checks(parts)
        await limits(parts)
        await certificates(parts)
        await parts.engine.dispose()


def main() -> None:
    """Print the table."""
    logs.configure("error", "console")
    asyncio.run(measure())


if __name__ == "__main__":
    main()
