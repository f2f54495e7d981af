"""What open SDS streams cost in this process, without a network: `python -m bench.sds [STREAMS]`.

Each stream is subscribed to its SVID and to the trust bundle. The table has the memory of a stream (the benchmark's own
end of it included), the seconds from a change of the roots until every stream has acknowledged it, and of a ban, from
the REST call until the revocation list is written to half of the streams, to 99% and to all, with the processor time
that this took, which other programs on the machine hardly add to.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest

from app.ca.model import Surface
from app.core.private_files import create_private_file
from app.core.signals import Signal
from app.envoy.sds import SecretDiscovery
from app.main.control_plane import CRL_REFRESH_SECONDS, repeat
from app.main.parts import Parts
from app.main.routes import route_table
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Credential, Principal
from app.telemetry import logs
from app.transport.grpc.context import CallContext
from app.transport.grpc.peer import Peer
from app.transport.rest.app import create_app
from app.transport.rest.authentication import TokenAuthenticator
from app.transport.rest.health import Health
from bench.connections import resident_kilobytes
from bench.loaded import OPERATOR, loaded_parts

STREAMS = 500
WARM_UP_STREAMS = 100
# Each opening waits for its certificate to be recorded, and a longer queue for the database would time out.
OPENED_AT_ONCE = 50
CHANGES = 5
NAMES = ("default", "ROOTCA")
STOLEN = "spiffe://cluster.local/ns/shop/sa/stolen"
BAN = f"/v1/identities/{quote(STOLEN, safe='')}/ban"
TOKEN = "the-token-of-this-benchmark"
LIST_MARK = b"BEGIN X509 CRL"


class Fleet:
    """Open streams whose clients, tasks of `sidecars`, acknowledge each response."""

    def __init__(self, parts: Parts, sidecars: asyncio.TaskGroup) -> None:
        self._discovery = SecretDiscovery(parts.ca.secrets, parts.metrics, parts.ca.subscribers)
        self._sidecars = sidecars
        self._opened: list[asyncio.Task[None]] = []
        self._received = Signal()
        self._expected = 0
        # When a revocation list was written to a stream: the time, and the processor time of this process.
        self.listed_at: list[tuple[float, float]] = []

    async def open(self, count: int) -> None:
        """Open `count` streams, a multiple of `OPENED_AT_ONCE`, and wait until each has acknowledged its secrets."""
        for _ in range(0, count, OPENED_AT_ONCE):
            first = len(self._opened)
            for index in range(first, first + OPENED_AT_ONCE):
                self._opened.append(self._sidecars.create_task(self._sidecar(index)))
            await self._receive(2 * OPENED_AT_ONCE)  # the subscription and the acknowledgement

    async def acknowledged(self) -> None:
        """Return once every stream has acknowledged one more response."""
        await self._receive(len(self._opened))

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
            if LIST_MARK in response.SerializeToString():
                self.listed_at.append((time.perf_counter(), time.process_time()))
            nonce, version = response.nonce, response.version_info
            requests.put_nowait(DiscoveryRequest(resource_names=NAMES, response_nonce=nonce, version_info=version))

    async def _sent(self, requests: "asyncio.Queue[DiscoveryRequest]") -> AsyncIterator[Any]:
        while True:
            yield await requests.get()
            self._received.fire()  # the stream asks for a request once it has received the one before


@dataclass(frozen=True)
class Spread:
    """Seconds until half of the streams, 99% of them, and all have something; and of processor time until all do."""

    half: float
    most: float
    last: float
    processor: float

    @staticmethod
    def of(moments: Sequence[tuple[float, float]]) -> "Spread":
        """Return the spread of the moments of each stream: seconds, and processor seconds."""
        ordered = sorted(seconds for seconds, _ in moments)
        processor = max(seconds for _, seconds in moments)
        return Spread(ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100], ordered[-1], processor)


async def change_roots(parts: Parts, fleet: Fleet) -> float:
    """Prepare a root, and return the seconds until every stream has acknowledged it. Takes it away again."""
    started = time.perf_counter()
    root = await parts.ca.authorities.roots.prepare(OPERATOR)
    await fleet.acknowledged()
    seconds = time.perf_counter() - started
    await parts.ca.authorities.roots.revoke(OPERATOR, root.id)
    await fleet.acknowledged()
    return seconds


async def ban(admin: httpx.AsyncClient, fleet: Fleet) -> Spread:
    """Ban an identity over REST, and return the seconds until the streams have the list. Lifts the ban again."""
    fleet.listed_at.clear()
    started, processor = time.perf_counter(), time.process_time()
    (await admin.put(BAN, json={"reason": "stolen key"})).raise_for_status()
    await fleet.acknowledged()
    spread = Spread.of([(at - started, spent - processor) for at, spent in fleet.listed_at])
    (await admin.delete(BAN)).raise_for_status()
    await fleet.acknowledged()
    return spread


@asynccontextmanager
async def admin_of(parts: Parts) -> AsyncIterator[httpx.AsyncClient]:
    """Serve the admin API in this process while lists are signed and given out, as a control plane does."""
    token = parts.settings.data_dir / "admin.token"
    create_private_file(token, TOKEN.encode())
    app = create_app(
        route_table(parts),
        authenticator=TokenAuthenticator(token),
        health=Health({}, parts.clock),
        metrics=parts.metrics,
        metrics_public=True,
    )
    wait = parts.ca.bans.changed.wait
    crls = repeat(parts.ca.maintain_crls, failed="failed", recovered="recovered", every=CRL_REFRESH_SECONDS, sleep=wait)
    maintaining = asyncio.create_task(crls)
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://admin.bench", headers=headers, timeout=60
    ) as client:
        yield client
    maintaining.cancel()


async def measure(streams: int) -> None:
    """Open streams on a control plane without listeners, and print the table."""
    async with loaded_parts() as parts, admin_of(parts) as admin, asyncio.TaskGroup() as sidecars:
        stolen = Principal(Credential.SVID, SpiffeId.parse(STOLEN))
        await parts.ca.issuance.issue_with_new_key(stolen, Surface.SDS)
        fleet = Fleet(parts, sidecars)
        await fleet.open(WARM_UP_STREAMS)
        before, started = resident_kilobytes("self"), time.perf_counter()
        await fleet.open(streams)
        seconds_to_open = time.perf_counter() - started
        kilobytes = (resident_kilobytes("self") - before) / streams
        roots = [await change_roots(parts, fleet) for _ in range(CHANGES)]
        bans = [await ban(admin, fleet) for _ in range(CHANGES)]
        fleet.close()
    best, processor = min(bans, key=lambda spread: spread.most), min(spread.processor for spread in bans)
    print("SDS streams in process, each with its SVID and the trust bundle; seconds, of each the best of five")
    print(f"{'':28}{'':10}{'':12}{'a root, until':>16}{'a ban, until the list is written to':>38}")
    print(
        f"{'streams':>28}{'KB each':>10}{'to open':>12}{'all accepted':>16}"
        f"{'half':>14}{'99%':>12}{'all':>12}{'CPU':>10}"
    )
    print(
        f"{WARM_UP_STREAMS + streams:>28}{kilobytes:>10.1f}{seconds_to_open:>12.2f}{min(roots):>16.3f}"
        f"{best.half:>14.3f}{best.most:>12.3f}{best.last:>12.3f}{processor:>10.3f}"
    )


def main(streams: int = STREAMS) -> None:
    """Print the table."""
    logs.configure("error", "console")
    asyncio.run(measure(streams))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
