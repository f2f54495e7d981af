"""What open SDS streams cost in this process, without a network: `python -m bench.sds [STREAMS]`.

Each stream is subscribed to its SVID and to the trust bundle. The table has the memory of a stream (the benchmark's own
end of it included), and the seconds from a change of the bundle until every stream has acknowledged it.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from typing import Any, cast

from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest

from app.ca.service.authorities import Authorities
from app.ca.service.secrets import IssuedSecrets
from app.core.clock import SystemClock
from app.core.signals import Signal
from app.envoy.sds import SecretDiscovery
from app.main.parts import Parts
from app.spiffe.bundle import TrustBundle
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Credential, Principal
from app.telemetry import logs
from app.transport.grpc.context import CallContext
from app.transport.grpc.peer import Peer
from bench.connections import resident_kilobytes
from bench.loaded import loaded_parts

STREAMS = 500
WARM_UP_STREAMS = 100
# Each opening waits for its certificate to be recorded, and a longer queue for the database would time out.
OPENED_AT_ONCE = 50
CHANGES = 7
NAMES = ("default", "ROOTCA")


class PublishedBundle:
    """A trust bundle that the benchmark changes, in the place of the authorities' own."""

    def __init__(self, bundle: TrustBundle) -> None:
        self.changed = Signal()
        self._root = bundle.roots[0]
        self._bundle = bundle

    def bundle(self) -> TrustBundle:
        """Return the current bundle."""
        return self._bundle

    def change(self) -> None:
        """Publish a bundle with another second root, and wake every stream."""
        sequence = self._bundle.sequence + 1
        self._bundle = TrustBundle(self._bundle.trust_domain, (self._root, f"{self._root}{sequence}\n"), sequence)
        self.changed.fire()


class Fleet:
    """Open streams whose clients, tasks of `sidecars`, acknowledge each response."""

    def __init__(self, parts: Parts, sidecars: asyncio.TaskGroup) -> None:
        self._published = PublishedBundle(parts.ca.authorities.bundle())
        source = IssuedSecrets(parts.ca.issuance, cast("Authorities", self._published), SystemClock())
        self._discovery = SecretDiscovery(source, parts.metrics, parts.ca.subscribers)
        self._sidecars = sidecars
        self._opened: list[asyncio.Task[None]] = []
        self._received = Signal()
        self._expected = 0

    async def open(self, count: int) -> None:
        """Open `count` streams, a multiple of `OPENED_AT_ONCE`, and wait until each has acknowledged its secrets."""
        for _ in range(0, count, OPENED_AT_ONCE):
            first = len(self._opened)
            for index in range(first, first + OPENED_AT_ONCE):
                self._opened.append(self._sidecars.create_task(self._sidecar(index)))
            await self._receive(2 * OPENED_AT_ONCE)  # the subscription and the acknowledgement

    async def change(self) -> float:
        """Change the bundle, and return the seconds until every stream has acknowledged it."""
        started = time.perf_counter()
        self._published.change()
        await self._receive(len(self._opened))
        return time.perf_counter() - started

    def close(self) -> None:
        """End every stream."""
        for sidecar in self._opened:
            sidecar.cancel()

    async def _receive(self, count: int) -> None:
        """Wait until `count` more requests have been received by the streams."""
        self._expected += count
        await self._received.wait_beyond(self._expected - 1)

    async def _sidecar(self, index: int) -> None:
        owner = Principal(Credential.SVID, SpiffeId.parse(f"spiffe://cluster.local/ns/shop/sa/s{index}"))
        context = CallContext("/StreamSecrets", Peer("127.0.0.1:1", local=True, tls=True), principal=owner)
        requests: asyncio.Queue[DiscoveryRequest] = asyncio.Queue()
        requests.put_nowait(DiscoveryRequest(resource_names=NAMES))
        async for response in self._discovery.stream_secrets(self._sent(requests), context):
            response.SerializeToString()
            nonce, version = response.nonce, response.version_info
            requests.put_nowait(DiscoveryRequest(resource_names=NAMES, response_nonce=nonce, version_info=version))

    async def _sent(self, requests: "asyncio.Queue[DiscoveryRequest]") -> AsyncIterator[Any]:
        while True:
            yield await requests.get()
            self._received.fire()  # the stream asks for a request once it has received the one before


async def measure(streams: int) -> None:
    """Open streams on a control plane without listeners, and print the table."""
    async with loaded_parts() as parts, asyncio.TaskGroup() as sidecars:
        fleet = Fleet(parts, sidecars)
        await fleet.open(WARM_UP_STREAMS)
        before, started = resident_kilobytes("self"), time.perf_counter()
        await fleet.open(streams)
        seconds_to_open = time.perf_counter() - started
        kilobytes = (resident_kilobytes("self") - before) / streams
        changes = [await fleet.change() for _ in range(CHANGES)]
        fleet.close()
    print("SDS streams in process, each with its SVID and the trust bundle")
    print(f"{'streams':>8}{'KB each':>10}{'s to open':>12}{'s until all acknowledged a new bundle':>40}")
    print(f"{WARM_UP_STREAMS + streams:>8}{kilobytes:>10.1f}{seconds_to_open:>12.2f}{min(changes):>40.3f}")


def main(streams: int = STREAMS) -> None:
    """Print the table."""
    logs.configure("error", "console")
    asyncio.run(measure(streams))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
