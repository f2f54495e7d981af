"""What a served CreateCertificate costs: P-256, authenticated by a client SVID over TLS, in a closed loop of 32.

Recorded on SQLite and on PostgreSQL with every write synced, log included; beside what OpenSSL allows for one
verification and one signature, and beside Istio's own CA server, which stores nothing, where `make peers` has built it.
The servers are loaded in turns; each has one core's worth of Python, or of Go.
"""

import asyncio
import gc
import json
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app.ca.model import Surface
from app.core.net import Address
from app.main.rpcs import SERVICES, rpc_table
from app.proto.istio.ca_pb2 import IstioCertificateRequest
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Credential, Principal
from app.telemetry import logs
from app.transport.grpc.admission import RateLimiter
from app.transport.grpc.application import GrpcApplication
from app.transport.grpc.health import Health
from app.transport.grpc.routes import UNLIMITED
from app.transport.mesh import MeshApplication
from app.transport.serving import MeshListener, TlsMaterial
from app.transport.sockets import listen
from bench.http2 import Load
from bench.issuance import floor
from bench.loaded import loaded_parts
from bench.turns import Contestant, take_turns
from tests.support.peers import ISTIO_CA

PATH = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
CALLER = Principal(Credential.SVID, SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/cart"))
DATABASES = ("SQLite", "PostgreSQL")
ISTIO = "Istio's CA"
ROUNDS = 15
CALLS = 640
# The goals: the share of the floor, and the throughput over that of Istio's server.
SHARE_OF_FLOOR, TIMES_ISTIO = 0.4, 1.5


async def serve(database: str) -> None:
    """Serve the rows of the control plane over TLS; print the port, and the root and an SVID with its key in PEM."""
    logs.configure("error", "console")
    with ExitStack() as stack:
        url = stack.enter_context(_postgres()) if database == "PostgreSQL" else None
        async with loaded_parts(database_url=url) as parts:
            serving = await parts.ca.issuance.issue_serving()
            client = await parts.ca.issuance.issue_with_new_key(CALLER, Surface.SDS)
            roots = "".join(parts.ca.authorities.bundle().roots)
            # One caller makes all calls, where a mesh has thousands: its limit is not what is measured.
            grpc = GrpcApplication(
                [replace(row, rate_limit=UNLIMITED) for row in rpc_table(parts, Health(SERVICES))],
                authenticator=parts.authenticator,
                limiter=RateLimiter(parts.clock.monotonic),
                metrics=parts.metrics,
            )
            listener = MeshListener(listen(Address("127.0.0.1", 0)), MeshApplication(grpc, [], parts.authenticator))
            gc.freeze()  # as app/main/serve.py does
            await listener.start(TlsMaterial("".join(serving.chain), serving.private_key, roots))
            started = {
                "port": listener.port,
                "root": roots,
                "certificate": "".join(client.chain),
                "key": client.private_key.decode(),
            }
            print(json.dumps(started), flush=True)
            await asyncio.to_thread(sys.stdin.read)
            await listener.stop()


@contextmanager
def _postgres() -> Iterator[str]:
    from tests.support.postgres import Postgres  # noqa: PLC0415 - an extra of the tests

    server: Any = Postgres(durable=True)
    try:
        yield server.url()
    finally:
        server.end()


@contextmanager
def _started(name: str, command: Sequence[str | Path]) -> Iterator[Contestant]:
    environment = {**os.environ, "GOMAXPROCS": "1"}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout
        assert process.stdin
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server did not start: {' '.join(map(str, command))} shows why")
        started = json.loads(line)
        load = Load(started["port"], PATH, (_request(),), tls=_client(started))
        yield Contestant(name, load, process.pid)
        process.stdin.close()


def _client(started: dict[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=started["root"])
    context.check_hostname = False  # it is the authority that is known, not its address
    context.set_alpn_protocols(["h2"])
    with tempfile.TemporaryDirectory() as directory:
        certificate, key = Path(directory) / "certificate", Path(directory) / "key"
        certificate.write_text(started["certificate"])
        key.write_text(started["key"])
        context.load_cert_chain(certificate, key)
    return context


def _request() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    text = csr.public_bytes(serialization.Encoding.PEM).decode()
    return bytes(IstioCertificateRequest(csr=text, validity_duration=3600).SerializeToString())


def main() -> None:
    """Print the table."""
    with ExitStack() as stack:
        contestants = [
            stack.enter_context(_started(name, (sys.executable, "-m", "bench.authority", name))) for name in DATABASES
        ]
        if ISTIO_CA.path.exists():
            contestants.append(stack.enter_context(_started(ISTIO, (ISTIO_CA.path,))))
        least = floor()
        asyncio.run(take_turns(contestants, ROUNDS, CALLS))
        least = min(least, floor())
    print(f"CreateCertificate over mutual TLS, P-256, 32 at once; {ROUNDS} rounds of {CALLS} calls in turns")
    print(f"one verification and one signature: {least:.0f} µs CPU")
    print(f"{'server':<14}{'CPU µs/call':>12}{'calls/s':>10}{'of the floor':>14}{'CPU: Istio ÷ this':>19}")
    others = contestants[-1].cpu_microseconds if ISTIO_CA.path.exists() else None
    for contestant in contestants:
        cpu, rate = contestant.cpu_microseconds, contestant.calls_per_second
        ratio = statistics.median(its / mine for its, mine in zip(others, cpu, strict=True)) if others else None
        print(
            f"{contestant.name:<14}{statistics.median(cpu):>12.0f}{statistics.median(rate):>10,.0f}"
            f"{least / statistics.median(cpu):>14.0%}{f'{ratio:.2f}' if ratio else '-':>19}"
        )
    print(f"goal: {SHARE_OF_FLOOR:.0%} of the floor, {TIMES_ISTIO} times as many calls as Istio's")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(serve(sys.argv[1]))
    else:
        main()
