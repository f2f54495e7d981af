"""What floods from peers without credentials do to an honest sidecar: `python -m bench.flood`.

A control plane runs as a process. Sixteen connections without a certificate flood its TLS port in one way after the
other, each for a few seconds, while a sidecar with an SVID makes checks at a steady rate. Printed are the latency of
its checks and the memory of the process, and for which share of the time its event loop waited for a core: where that
is large, the machine is busy with other things, and the latencies are theirs.
"""

import asyncio
import contextlib
import gzip
import os
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import h2.config
import h2.connection
import h2.exceptions
from h2.events import StreamReset

from bench.beside import CHECKS_PER_SECOND, Row, Table, Target, honest

CONNECTIONS = 16
SECONDS = 5.0
# The floods come from other machines: here they take what the control plane and the sidecar leave of the cores.
FLOOD_NICE = 15
# The bounds that the control plane is to keep.
MAX_P99_MS = 50.0
MAX_MEGABYTES = 400.0
PIECE = 16_000


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
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        # A TLS connection that is given up in its handshake would wait for the server's answer to its close.
        socket = writer.transport
        try:
            await writer.start_tls(context)
            flooder = Flooder(reader, writer)
            await flooder.exchange()
        except BaseException:
            socket.abort()
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
        """Close the connection, without waiting for the server."""
        self._writer.transport.abort()


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


async def measure(target: Target, channel: grpc.aio.Channel) -> AsyncIterator[Row]:
    """Yield a row for each flood."""
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
        yield Row(name, took, f"{megabytes:>10.0f}{waiting:>10.0%}", within=megabytes < MAX_MEGABYTES)


def main() -> None:
    """Print the table."""
    Table(
        f"Checks of an honest sidecar, {CHECKS_PER_SECOND} a second, beside {CONNECTIONS} flooding connections",
        "flood",
        f"{'MB':>10}{'waiting':>10}",
        MAX_P99_MS,
        f" and memory below {MAX_MEGABYTES:.0f} MB",
    ).show(measure)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        chosen = FLOODS[sys.argv[1]]
        assert chosen
        os.nice(FLOOD_NICE)
        asyncio.run(flood_from_all(chosen, int(sys.argv[2])))
    else:
        main()
