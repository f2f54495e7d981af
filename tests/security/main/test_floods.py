"""Floods from peers that have proven nothing: others are still answered, and the memory that they claim is bounded."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from bench.flood import Flooder
from tests.support.callers import check, join, tls_channel
from tests.support.serving import PATIENCE, eventually_async

DESCRIPTORS = 400
# A quarter of the descriptors.
MAX_CONNECTIONS = DESCRIPTORS // 4
# What a flood of unfinished requests may add: the bounds on streams and on their bytes, and the server's own buffers.
MAX_GROWTH = 120 * 1024 * 1024
STREAMS = 100
LENGTH = 1 << 20


def resident(server):
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))


async def half_send(flooder, path):
    """Open streams that announce a message and send what the server takes of it, but no end."""
    for _ in range(STREAMS):
        flooder.send(flooder.open_stream(path), b"\0" + LENGTH.to_bytes(4) + b"x" * LENGTH)
        await flooder.exchange()


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
            await asyncio.gather(*(half_send(flooder, path) for flooder in flooders))
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
