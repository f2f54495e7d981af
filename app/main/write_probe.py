"""Whether the database takes writes: tried now and then, as reads and small writes succeed on a disk that is full."""

import asyncio
import secrets

from app.core.clock import Clock, Sleep
from app.core.errors import MeshwardError, UnavailableError
from app.db.errors import DatabaseAwayError
from app.documents.model import DocumentKey, StoredDocument
from app.documents.ports import DocumentTransactions

# The kind of the document that the probe replaces: no feature's.
PROBE_KIND = "write-probe"
# A document as large as what issuing a certificate and recording it changes, in pages; random, so that no database
# stores it in less.
PROBE_BYTES = 32 * 1024
# How often a write is tried, and how soon again after one that failed.
PROBE_SECONDS = 5.0
RETRY_SECONDS = 1.0
# A result that is older than this is none: the write that should have replaced it has not ended.
MAX_AGE_SECONDS = 20.0

_KEY = DocumentKey("", "probe")


class WriteProbe:
    """Replaces a document of its own, through the same unit of work as every change, and keeps why that failed.

    It needs no table: a document of a kind that nothing else reads. `/readyz` reads the result alone, so that probes of
    a balancer cannot load the database.
    """

    def __init__(
        self, transactions: DocumentTransactions, place: str, clock: Clock, sleep: Sleep = asyncio.sleep
    ) -> None:
        """`transactions` are of the kind PROBE_KIND; `place` is what a message calls the database."""
        self._transactions, self._place, self._clock, self._sleep = transactions, place, clock, sleep
        self._failure = f"no write to {place} was tried yet"
        self._ended_at = clock.monotonic()

    async def run(self) -> None:
        """Try a write every PROBE_SECONDS until cancelled."""
        while True:
            await self.probe()
            await self._sleep(RETRY_SECONDS if self._failure else PROBE_SECONDS)

    async def probe(self) -> None:
        """Try a write now."""
        try:
            await self._write()
        except MeshwardError as error:
            away = error.__cause__
            reason = away.message if isinstance(away, DatabaseAwayError) else f"{self._place}: {error.message}"
            self._failure = reason
        else:
            self._failure = ""
        self._ended_at = self._clock.monotonic()

    async def check(self) -> None:
        """Raise UnavailableError with the reason if the last write failed, or did not end."""
        if self._failure:
            raise UnavailableError(self._failure)
        age = self._clock.monotonic() - self._ended_at
        if age > MAX_AGE_SECONDS:
            raise UnavailableError(f"{self._place}: no write has ended for {age:.0f} seconds")

    async def _write(self) -> None:
        async with self._transactions() as repository:
            # First, so that the probes of several replicas wait for each other.
            version = await repository.next_revision()
            document = {"random": secrets.token_hex(PROBE_BYTES // 2)}
            await repository.put(StoredDocument(*_KEY, document, version, self._clock.now()))
