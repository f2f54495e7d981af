"""Floods from peers that have proven nothing: others are still answered, and the memory that they claim is bounded."""

import asyncio
import contextlib
import ssl
from pathlib import Path

import h2.config
import h2.connection
import pytest

from tests.support.callers import check, join, tls_channel
from tests.support.serving import PATIENCE, eventually_async

DESCRIPTORS = 400
# A quarter of the descriptors.
MAX_CONNECTIONS = DESCRIPTORS // 4
# What a flood of unfinished requests may add: the bounds on streams and on their bytes, and the server's own buffers.
MAX_GROWTH = 120 * 1024 * 1024
PIECE = 16_000


def resident(server):
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))


def stranger_tls():
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context


class Flooder:
    """One HTTP/2 connection without a certificate."""

    def __init__(self, reader, writer):
        self._reader, self._writer = reader, writer
        self._connection = h2.connection.H2Connection(h2.config.H2Configuration())
        self._connection.initiate_connection()

    @staticmethod
    async def connect(port):
        """Connect and finish both handshakes, TLS and HTTP/2."""
        flooder = Flooder(*await asyncio.open_connection("127.0.0.1", port, ssl=stranger_tls()))
        flooder._writer.write(flooder._connection.data_to_send())
        return flooder

    async def half_send(self, path, streams, length):
        """Open streams that announce a message of `length` bytes and send what the server takes of it, but no end."""
        for _ in range(streams):
            stream = self._connection.get_next_available_stream_id()
            headers = [
                (":method", "POST"),
                (":scheme", "https"),
                (":authority", "localhost"),
                (":path", path),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
            ]
            self._connection.send_headers(stream, headers)
            with contextlib.suppress(h2.exceptions.FlowControlError):
                self._connection.send_data(stream, b"\0" + length.to_bytes(4))
                for _ in range(length // PIECE):
                    self._connection.send_data(stream, b"x" * PIECE)
            await self._exchange()

    async def _exchange(self):
        self._writer.write(self._connection.data_to_send())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.002):
                data = await self._reader.read(65536)
                self._connection.receive_data(data)

    def close(self):
        self._writer.close()


@pytest.fixture
async def server(shared_server):
    yield shared_server
    assert "Traceback" not in shared_server.log_text


@pytest.mark.parametrize("path", ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"])
async def test_unfinished_requests_of_strangers_claim_bounded_memory(server, path):
    async with tls_channel(server, await join(server)) as honest:
        assert await check(honest)
        before = resident(server)
        flooders = [await Flooder.connect(server.tls_port) for _ in range(4)]
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(*(flooder.half_send(path, 100, 1 << 20) for flooder in flooders))
        assert await check(honest)
        assert resident(server) - before < MAX_GROWTH
        for flooder in flooders:
            flooder.close()


async def test_idle_connections_of_strangers_do_not_keep_a_sidecar_out(serving):
    server = serving.launch(descriptors=DESCRIPTORS).wait_until_ready()
    identity = await join(server)
    # More than the port may have, all with a finished handshake where it lets them have one.
    idle = [asyncio.create_task(Flooder.connect(server.tls_port)) for _ in range(2 * MAX_CONNECTIONS)]
    await asyncio.wait(idle[:MAX_CONNECTIONS], timeout=5)

    async def is_answered():
        with contextlib.suppress(Exception):
            async with asyncio.timeout(2), tls_channel(server, identity) as honest:
                return await check(honest)
        return False

    await eventually_async(is_answered, "a sidecar to be answered", PATIENCE)
    samples = server.metrics()
    closed = [name for name in samples if name.startswith("meshward_mesh_connections_closed_total")]
    assert sum(samples[name] for name in closed) > 0, samples
    for connecting in idle:
        connecting.cancel()
    for outcome in await asyncio.gather(*idle, return_exceptions=True):
        if isinstance(outcome, Flooder):
            outcome.close()
