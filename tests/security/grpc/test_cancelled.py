"""Clients that leave are no fault of ours, however many they are: they are counted, and leave no line in the log."""

import asyncio

from structlog.testing import capture_logs

from tests.fakes.echo import ECHO
from tests.fakes.raw_http2 import RawClient, framed
from tests.fakes.served_echo import Mesh, on_h2corn

METHODS = ("Awaitable", "Unary")
CONNECTIONS = 20
# Below the resets for which the HTTP/2 server closes a connection.
RESETS = 30


async def test_a_flood_of_cancelled_calls_is_counted_and_leaves_no_line():
    """As Envoy cancels the checks of requests that are reset, on the fast path and not."""
    with capture_logs() as logs:
        async with on_h2corn(Mesh()) as mesh:
            for _ in range(CONNECTIONS):
                await cancel_calls(mesh)
            ended = {
                code: sum(mesh.metrics.rpcs.value(f"/{ECHO}/{method}", code) for method in METHODS)
                for code in ("OK", "CANCELLED", "INTERNAL", "UNKNOWN")
            }
    assert logs == []
    # At least the one of each connection that was waited for; the server drops those that it had yet to start.
    assert ended["CANCELLED"] >= CONNECTIONS
    assert (ended["INTERNAL"], ended["UNKNOWN"]) == (0, 0)


async def cancel_calls(mesh):
    client = await RawClient.connect(mesh.port)
    async with asyncio.timeout(20):
        for method in METHODS:
            assert (await client.call(method, framed("before"))).status == "0"
        mesh.echo.waiting.clear()
        streams = []
        for number in range(RESETS):
            streams.append(await client.open(METHODS[number % len(METHODS)]))
            await client.send(streams[-1], framed(("wait", "ignore cancellation")[number // 2 % 2]), end=True)
        await mesh.echo.waiting.wait()
        for stream in streams:
            client.h2.reset_stream(stream)
        await client.flush()
        assert (await client.call("Mesh", framed("after"))).status == "0"
    await client.close()
