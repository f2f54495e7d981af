"""What something does to the checks of a sidecar: a control plane run as a process, and the table of its answers."""

import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse

from app.proto.istio.ca_pb2 import IstioCertificateRequest, IstioCertificateResponse
from bench.calls import check_request

CHECKS_PER_SECOND = 100
SIDECAR = "spiffe://cluster.local/ns/shop/sa/cart"
START_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Target:
    """The control plane as a process, and where it is reached."""

    process: subprocess.Popen[bytes]
    directory: Path
    tls_port: int
    admin_port: int

    @property
    def waited_seconds(self) -> float:
        """How long its main thread has been ready to run without a core."""
        return int(Path(f"/proc/{self.process.pid}/schedstat").read_text(encoding="ascii").split()[1]) / 1e9

    @property
    def megabytes(self) -> float:
        """Its resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))


async def honest(channel: grpc.aio.Channel, seconds: float, timeout: float = 10) -> list[float]:  # noqa: ASYNC109
    """Make checks at a steady rate and return how many milliseconds each took."""
    call = channel.unary_unary(
        "/envoy.service.auth.v3.Authorization/Check", response_deserializer=CheckResponse.FromString
    )
    message = check_request()
    took: list[float] = []

    async def check() -> None:
        began = time.perf_counter()
        await call(message, timeout=timeout)
        took.append((time.perf_counter() - began) * 1000)

    async with asyncio.TaskGroup() as group:
        for _ in range(int(seconds * CHECKS_PER_SECOND)):
            group.create_task(check())
            await asyncio.sleep(1 / CHECKS_PER_SECOND)
    return took


@contextmanager
def running(directory: Path) -> Iterator[Target]:
    """Run a control plane on ports that the kernel chooses."""
    settings = {
        "DATA_DIR": str(directory / "data"),
        "MESH_TLS_BIND": "127.0.0.1:0",
        "MESH_PLAINTEXT_BIND": "127.0.0.1:0",
        "ADMIN_BIND": "127.0.0.1:0",
        "MESH_REFLECTION": "true",
        "LOG_FORMAT": "json",
    }
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MESHWARD_")}
    environment = outside | {f"MESHWARD_{name}": value for name, value in settings.items()}
    with (
        (directory / "log").open("wb") as log,
        subprocess.Popen([sys.executable, "-m", "app.cli", "serve"], env=environment, stderr=log) as process,
    ):
        try:
            ports = _ports(directory / "log")
            yield Target(process, directory / "data", ports["mesh_tls"], ports["admin"])
        finally:
            process.send_signal(signal.SIGKILL)


def _ports(log: Path) -> dict[str, int]:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        for line in log.read_text(encoding="utf-8").splitlines():
            if '"event": "listening"' in line and "mesh_tls" in line:
                found: dict[str, int] = json.loads(line)
                return found
        time.sleep(0.05)
    raise TimeoutError("the control plane did not start")


async def sidecar(target: Target) -> grpc.aio.Channel:
    """Return a channel with an SVID of the mesh."""
    token = (target.directory / "admin.token").read_text(encoding="ascii").strip()
    request = urllib.request.Request(
        f"http://127.0.0.1:{target.admin_port}/v1/join-tokens",
        json.dumps({"spiffe_id": SIDECAR}).encode(),
        {"authorization": f"Bearer {token}", "content-type": "application/json"},
    )
    with await asyncio.to_thread(urllib.request.urlopen, request) as answer:
        join_token = json.load(answer)["token"]
    roots = (target.directory / "bundle.pem").read_bytes()
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    asked = IstioCertificateRequest(csr=csr.public_bytes(serialization.Encoding.PEM).decode())
    address = f"localhost:{target.tls_port}"
    async with grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(roots)) as channel:
        create = channel.unary_unary(
            "/istio.v1.auth.IstioCertificateService/CreateCertificate",
            IstioCertificateRequest.SerializeToString,
            IstioCertificateResponse.FromString,
        )
        metadata = (("authorization", f"Bearer {join_token}"),)
        issued = await create(asked, metadata=metadata, wait_for_ready=True, timeout=START_SECONDS)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    credentials = grpc.ssl_channel_credentials(roots, pem, "".join(issued.cert_chain[:-1]).encode())
    return grpc.aio.secure_channel(address, credentials, options=(("grpc.use_local_subchannel_pool", 1),))


@dataclass(frozen=True, slots=True)
class Row:
    """What one operation did: how many milliseconds the checks beside it took, and what else is told of it."""

    name: str
    took: list[float]
    more: str
    within: bool = True


@dataclass(frozen=True, slots=True)
class Table:
    """How the rows are headed, and what they are held to: the p99 of the checks, and what `bounds` says."""

    title: str
    kind: str
    more: str
    max_p99_ms: float
    bounds: str = ""

    def show(self, measure: Callable[[Target, grpc.aio.Channel], AsyncIterator[Row]]) -> None:
        """Print what `measure` yields of a new control plane, and whether all bounds were kept."""
        print(self.title)
        print(f"{self.kind:<36}{'p50 ms':>10}{'p99 ms':>10}{'max ms':>10}{self.more}")
        with tempfile.TemporaryDirectory(prefix="meshward-bench-") as directory, running(Path(directory)) as target:
            kept = asyncio.run(self._print_rows(target, measure))
        print(f"p99 below {self.max_p99_ms:.0f} ms{self.bounds}: {'yes' if kept else 'NO'}")

    async def _print_rows(
        self, target: Target, measure: Callable[[Target, grpc.aio.Channel], AsyncIterator[Row]]
    ) -> bool:
        kept = True
        channel = await sidecar(target)
        await honest(channel, 1)
        async for row in measure(target, channel):
            p99 = statistics.quantiles(row.took, n=100)[98]
            kept = kept and p99 < self.max_p99_ms and row.within
            milliseconds = f"{statistics.median(row.took):>10.1f}{p99:>10.1f}{max(row.took):>10.1f}"
            print(f"{row.name:<36}{milliseconds}{row.more}", flush=True)
        await channel.close()
        return kept
