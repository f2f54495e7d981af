"""What floods from peers without credentials do to an honest sidecar: `python -m bench.flood`.

A control plane runs as a process. Sixteen connections without a certificate flood its TLS port in one way after the
other, each for a few seconds, while a sidecar with an SVID makes checks at a steady rate. Printed are the latency of
its checks and the memory of the process, and for which share of the time its event loop waited for a core: where that
is large, the machine is busy with other things, and the latencies are theirs.
"""

import asyncio
import contextlib
import gzip
import json
import os
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import h2.config
import h2.connection
import h2.exceptions
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from h2.events import StreamReset

from app.proto.istio.ca_pb2 import IstioCertificateRequest, IstioCertificateResponse
from bench.calls import check_request

CONNECTIONS = 16
SECONDS = 5.0
CHECKS_PER_SECOND = 100
# The floods come from other machines: here they take what the control plane and the sidecar leave of the cores.
FLOOD_NICE = 15
# The bounds that the control plane is to keep.
MAX_P99_MS = 50.0
MAX_MEGABYTES = 400.0
SIDECAR = "spiffe://cluster.local/ns/shop/sa/cart"
START_SECONDS = 30.0
PIECE = 16_000


@dataclass(frozen=True, slots=True)
class Target:
    """The process that is flooded."""

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


class Flooder:
    """One HTTP/2 connection over TLS, without a certificate."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._connection = h2.connection.H2Connection(h2.config.H2Configuration())
        self._connection.initiate_connection()

    @staticmethod
    async def connect(port: int) -> "Flooder":
        """Connect and finish both handshakes, TLS and HTTP/2."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        flooder = Flooder(*await asyncio.open_connection("127.0.0.1", port, ssl=context))
        try:
            await flooder.exchange()
        except BaseException:
            flooder.close()
            raise
        return flooder

    def open_stream(self, path: str, *headers: tuple[str, str]) -> int:
        """Open a stream with the headers of a gRPC call."""
        stream = self._connection.get_next_available_stream_id()
        pseudo = [(":method", "POST"), (":scheme", "https"), (":authority", "localhost"), (":path", path)]
        grpc_headers = [("content-type", "application/grpc"), ("te", "trailers")]
        self._connection.send_headers(stream, [*pseudo, *grpc_headers, *headers])
        return stream

    def send(self, stream: int, body: bytes, *, end: bool = False) -> None:
        """Send as much of a body as the server takes."""
        with contextlib.suppress(h2.exceptions.ProtocolError):
            for start in range(0, len(body), PIECE):
                last = end and start + PIECE >= len(body)
                self._connection.send_data(stream, body[start : start + PIECE], end_stream=last)

    async def exchange(self) -> None:
        """Send what is to be sent, and take note of what the server sends."""
        self._writer.write(self._connection.data_to_send())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.005):
                data = await self._reader.read(65_536)
                if not data:
                    raise ConnectionResetError
                for event in self._connection.receive_data(data):
                    if isinstance(event, StreamReset):
                        continue

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()


Flood = Callable[[int], Awaitable[None]]
"""Floods the port over one connection until it is cancelled or the connection is closed."""


def half_sent(path: str) -> Flood:
    """Return the flood of requests that announce a megabyte and never end."""

    async def flood(port: int) -> None:
        flooder = await Flooder.connect(port)
        while True:
            flooder.send(flooder.open_stream(path), b"\0" + (1 << 20).to_bytes(4) + b"x" * (1 << 20))
            await flooder.exchange()

    return flood


def whole(path: str, body: bytes, *headers: tuple[str, str]) -> Flood:
    """Return the flood of whole requests with the body, as fast as they can be sent."""

    async def flood(port: int) -> None:
        flooder = await Flooder.connect(port)
        while True:
            flooder.send(flooder.open_stream(path, *headers), body, end=True)
            await flooder.exchange()

    return flood


async def idle(port: int) -> None:
    """Hold connections without a request."""
    held = [await Flooder.connect(port) for _ in range(20)]
    await asyncio.Event().wait()
    del held


async def trickled_heads(port: int) -> None:
    """Send the head of an HTTP/1 request a byte at a time."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.1)


BOMB = gzip.compress(bytes(64 << 20))
TOKEN = ("authorization", "Bearer this-is-no-join-token")
FLOODS: dict[str, Flood | None] = {
    "nothing": None,
    "half-sent Health/Check": half_sent("/grpc.health.v1.Health/Check"),
    "half-sent Health/Watch": half_sent("/grpc.health.v1.Health/Watch"),
    "open Health/Watch": whole("/grpc.health.v1.Health/Watch", b"\0\0\0\0\0"),
    "gzip bombs to reflection": whole(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        b"\1" + len(BOMB).to_bytes(4) + BOMB,
        ("grpc-encoding", "gzip"),
    ),
    "unknown methods": whole("/a.Service/Method", b"\0\0\0\0\0"),
    "invented join tokens": whole("/istio.v1.auth.IstioCertificateService/CreateCertificate", b"\0\0\0\0\0", TOKEN),
    "idle connections": idle,
    "trickled HTTP/1 heads": trickled_heads,
}


async def again(flood: Flood, port: int) -> None:
    """Flood over a new connection whenever the one before was closed."""
    while True:
        with contextlib.suppress(OSError, h2.exceptions.ProtocolError, asyncio.IncompleteReadError):
            await flood(port)
        await asyncio.sleep(0.01)


async def flood_from_all(flood: Flood, port: int) -> None:
    """Flood over all connections, for longer than the benchmark looks."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(4 * SECONDS), asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(again(flood, port))


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


async def measure(target: Target) -> bool:
    """Print a row for each flood; return whether all bounds were kept."""
    kept = True
    channel = await sidecar(target)
    await honest(channel, 1)
    for name, flood in FLOODS.items():
        # In a process of its own, so that what it costs does not delay the sidecar's checks.
        arguments = [sys.executable, "-m", "bench.flood", name, str(target.tls_port)]
        flooding = await asyncio.create_subprocess_exec(*arguments) if flood else None
        await asyncio.sleep(1)
        waited = target.waited_seconds
        took = await honest(channel, SECONDS)
        waiting = (target.waited_seconds - waited) / SECONDS
        megabytes = target.megabytes
        if flooding:
            flooding.kill()
            await flooding.wait()
        p99 = statistics.quantiles(took, n=100)[98]
        kept = kept and p99 < MAX_P99_MS and megabytes < MAX_MEGABYTES
        milliseconds = f"{statistics.median(took):>10.1f}{p99:>10.1f}{max(took):>10.1f}"
        print(f"{name:<28}{milliseconds}{megabytes:>10.0f}{waiting:>10.0%}", flush=True)
    await channel.close()
    return kept


def main() -> None:
    """Print the table."""
    print(f"Checks of an honest sidecar, {CHECKS_PER_SECOND} a second, beside {CONNECTIONS} flooding connections")
    print(f"{'flood':<28}{'p50 ms':>10}{'p99 ms':>10}{'max ms':>10}{'MB':>10}{'waiting':>10}")
    with tempfile.TemporaryDirectory(prefix="meshward-flood-") as directory, running(Path(directory)) as target:
        kept = asyncio.run(measure(target))
    print(f"p99 below {MAX_P99_MS:.0f} ms and memory below {MAX_MEGABYTES:.0f} MB: {'yes' if kept else 'NO'}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        chosen = FLOODS[sys.argv[1]]
        assert chosen
        os.nice(FLOOD_NICE)
        asyncio.run(flood_from_all(chosen, int(sys.argv[2])))
    else:
        main()
