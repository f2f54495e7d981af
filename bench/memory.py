"""Whether memory stays flat over many issuances: `python -m bench.memory [ISSUANCES]`, 200,000 without a number.

CreateCertificate in process, in a closed loop of 32, beside the passes that a control plane makes each second; the
database is in memory (tmpfs), as it is not the disk that is looked at. The table has the memory of the process after
each tenth. It takes minutes, so that `make bench` leaves it out.
"""

import asyncio
import sys
import time
from pathlib import Path

from app.ca.rpc.istio import IstioCertificates
from app.main.control_plane import repeat
from app.main.parts import Parts
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Credential, Principal
from app.telemetry import logs
from app.transport.grpc.context import CallContext
from bench.connections import resident_kilobytes
from bench.issuance import PEER, request
from bench.loaded import loaded_parts

ISSUANCES = 200_000
AT_ONCE = 32
PARTS = 10
# Of a mesh: each is issued many certificates.
IDENTITIES = 1_000
TMPFS = Path("/dev/shm")


async def issue(rpc: IstioCertificates, count: int) -> None:
    """Issue so many certificates, AT_ONCE in flight."""
    message = request()
    contexts = [
        CallContext("/m", PEER, principal=Principal(Credential.SVID, SpiffeId.parse(f"spiffe://cluster.local/w/{n}")))
        for n in range(IDENTITIES)
    ]

    async def caller(first: int) -> None:
        for number in range(first, count, AT_ONCE):
            await rpc.create_certificate(message, contexts[number % IDENTITIES])

    await asyncio.gather(*(caller(first) for first in range(AT_ONCE)))


async def measure(parts: Parts, issuances: int) -> None:
    """Print the memory after each tenth of the issuances."""
    rpc = IstioCertificates(parts.ca.issuance)
    print(f"CreateCertificate in process, {AT_ONCE} at once, {issuances} of {IDENTITIES} identities, SQLite on tmpfs")
    print(f"{'issued':>12}{'seconds':>10}{'MB resident':>14}")
    started = time.perf_counter()
    for tenth in range(1, PARTS + 1):
        await issue(rpc, issuances // PARTS)
        issued, megabytes = tenth * (issuances // PARTS), resident_kilobytes("self") / 1024
        print(f"{issued:>12}{time.perf_counter() - started:>10.1f}{megabytes:>14.1f}", flush=True)


async def run(issuances: int, place: Path | None) -> None:
    """Measure on a control plane without listeners."""
    async with loaded_parts(place=place) as parts:
        work = (parts.ca.maintain, parts.ca.maintain_crls, parts.ca.bans.refresh)
        passes = [asyncio.create_task(repeat(each, failed="pass_failed", recovered="pass_recovered")) for each in work]
        await measure(parts, issuances)
        for each in passes:
            each.cancel()
        await asyncio.gather(*passes, return_exceptions=True)


def main(issuances: int = ISSUANCES) -> None:
    """Print the table."""
    logs.configure("error", "console")
    asyncio.run(run(issuances, TMPFS if TMPFS.is_dir() else None))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
