"""What the transparency log costs on SQLite: bytes an entry, and the milliseconds of a proof.

`python -m bench.log 1000000` for another number of entries than 100,000.
"""

import asyncio
import sqlite3
import statistics
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from app.ca.model import IssuedSvid, Surface
from app.ca.ports import CaTransactions
from app.ca.rules.log import svid_entry
from app.ca.service.leaves import append
from app.spiffe.id import SpiffeId
from app.telemetry import logs
from bench.loaded import loaded_parts

ENTRIES = 100_000
BATCH = 10_000
PROOFS = 50
CART = SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/cart")


async def fill(transactions: CaTransactions, entries: int) -> list[str]:
    """Append entries of made-up SVIDs, and return the serial numbers of some of them."""
    now, serials = datetime.now(UTC), [uuid.uuid4().hex for _ in range(entries)]
    for first in range(0, entries, BATCH):
        svids = [
            IssuedSvid(
                serial, CART, "ab" * 20, sha256(serial.encode()).hexdigest(), now, now + timedelta(1), now, Surface.SDS
            )
            for serial in serials[first : first + BATCH]
        ]
        async with transactions() as repository:
            await append(repository, [svid_entry(svid) for svid in svids])
    return serials[:: max(entries // PROOFS, 1)]


async def median(calls: list[Callable[[], Awaitable[Any]]]) -> float:
    """Return the median milliseconds of the calls."""
    figures = []
    for call in calls:
        started = time.perf_counter()
        await call()
        figures.append((time.perf_counter() - started) * 1e3)
    return statistics.median(figures)


def size_of(database: Path) -> int:
    """Return the bytes of the database with all its entries in it."""
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return database.stat().st_size


async def measure(entries: int) -> None:
    """Print the table."""
    async with loaded_parts() as parts:
        database = parts.settings.data_dir / "meshward.db"
        before = size_of(database)
        serials = await fill(parts.ca.log.transactions, entries)
        print(f"Transparency log of {entries:,} entries: {(size_of(database) - before) / entries:.0f} bytes each")
        await parts.ca.log.maintain()
        inclusion = await median([partial(parts.ca.log.inclusion, serial) for serial in serials])
        sizes = range(1, entries, max(entries // PROOFS, 1))
        consistency = await median([partial(parts.ca.log.consistency, size) for size in sizes])
        print(f"a proof of inclusion {inclusion:.1f} ms, of consistency {consistency:.1f} ms")


def main(entries: int = ENTRIES) -> None:
    """Print the table."""
    logs.configure("error", "console")
    asyncio.run(measure(entries))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ENTRIES)
