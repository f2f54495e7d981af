"""The serving certificate is replaced while calls are made, and no call notices.

The callers have no retry policy. A call that is on its way while its connection is given notice is refused unseen, and
every client of gRPC makes such a call again by itself.
"""

import asyncio
import contextlib

import grpc
import grpc.aio
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from tests.support.callers import CART, certify, check, join, opened_stream, presented_certificate, tls_channel
from tests.support.serving import eventually_async

LATE = "spiffe://cluster.local/ns/shop/sa/late"
# Half of it is the time between two rotations.
TTL = "6s"
ROTATIONS = 3
CHANNELS = 4


class Traffic:
    """Callers that go on until they are told to stop, and what became of their calls."""

    def __init__(self, server):
        self._server = server
        self.running = True
        self.calls = self.pushes = self.streams = 0
        self.failures = []

    async def check(self, channel):
        while self.running:
            try:
                assert await check(channel)
            except (grpc.aio.AioRpcError, AssertionError) as error:
                self.failures.append(error)
            self.calls += 1

    async def watch(self, channel):
        """What a sidecar has open beside its calls, on the same connection: opened again where it ends."""
        while self.running:
            try:
                call = HealthStub(channel).Watch(HealthCheckRequest())
                while await call.read() is not grpc.aio.EOF:
                    continue
            except grpc.aio.AioRpcError as error:
                self.note_end(error)

    async def renew(self, channel):
        while self.running:
            try:
                await certify(channel, ttl_seconds=600)
            except grpc.aio.AioRpcError as error:
                self.failures.append(error)
            await asyncio.sleep(0.05)

    async def subscribe(self, channel):
        """A sidecar: opens its stream again where it ends, which must not be an error of ours."""
        while self.running:
            self.streams += 1
            try:
                call = await opened_stream(channel)
                while await call.read() is not grpc.aio.EOF:
                    self.pushes += 1
                if await call.code() is not grpc.StatusCode.OK:
                    self.failures.append(await call.code())
            except grpc.aio.AioRpcError as error:
                self.note_end(error)

    def note_end(self, error):
        """A stream that is told to be opened again has not failed."""
        if error.code() is not grpc.StatusCode.UNAVAILABLE or "drain" not in error.details():
            self.failures.append(error)


async def test_no_call_fails_while_the_certificate_is_replaced(serving):
    server = serving.start(ca_svid_default_ttl=TTL)
    for spiffe_id in (CART, LATE):  # the callers' certificates outlive the rotations
        entry = {"spiffe_id": spiffe_id, "x509_svid_ttl_seconds": 600}
        assert server.ask("POST", "/v1/entries", json=entry).status_code == 201
    cart = await join(server, ttl_seconds=600)
    first = presented_certificate(server)
    rotations = len(server.events("serving_certificate_replaced"))
    traffic = Traffic(server)
    shown = {first.serial_number}

    async def rotated():
        # Whoever connects at any time sees a certificate that is good.
        shown.add((await asyncio.to_thread(presented_certificate, server)).serial_number)
        return len(server.events("serving_certificate_replaced")) >= rotations + ROTATIONS

    async with contextlib.AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(tls_channel(server, cart)) for _ in range(CHANNELS + 2)]
        callers = [asyncio.create_task(traffic.check(channel)) for channel in channels[:CHANNELS]]
        callers.append(asyncio.create_task(traffic.renew(channels[CHANNELS])))
        others = [asyncio.create_task(traffic.watch(channel)) for channel in channels[: CHANNELS + 1]]
        others.append(asyncio.create_task(traffic.subscribe(channels[CHANNELS + 1])))
        await eventually_async(rotated, f"{ROTATIONS} rotations")
        # A join that comes in the middle of it all.
        joined = await join(server, LATE, ttl_seconds=600)
        traffic.running = False
        await asyncio.gather(*callers)
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        assert traffic.failures == []
        assert traffic.calls > CHANNELS * ROTATIONS
        assert traffic.pushes + traffic.streams > 1
        assert len(shown) >= ROTATIONS
        assert (await certify(channels[0])).spiffe_id == CART
    assert joined.spiffe_id == LATE
    assert server.stop() == 0
    assert "Traceback" not in server.log_text
    assert not server.events("serving_certificate_failed")
