"""The records of issued SVIDs, and how long they and join tokens are kept."""

from collections.abc import Sequence
from datetime import timedelta

from app.ca.model import IssuedSvid
from app.ca.ports import CaTransactions
from app.core.clock import Clock
from app.core.pruning import Pruning
from app.spiffe.id import SpiffeId
from app.telemetry.metrics import Metrics

# Counted from the end of the certificate or token, for those who investigate what happened.
SVID_RETENTION = timedelta(days=30)
TOKEN_RETENTION = timedelta(days=7)
# How often the oldest SVID in use is looked for: it takes a look at all that have not ended.
MEASURE_SECONDS = 60.0


class Records:
    """Lists the records of issued SVIDs; removes, once an hour, records and join tokens past their retention.

    Once a minute it publishes when the oldest SVID that has not ended was issued.
    """

    def __init__(self, transactions: CaTransactions, clock: Clock, metrics: Metrics) -> None:
        self._transactions, self._clock, self._metrics = transactions, clock, metrics
        self._measured_at = float("-inf")
        self._prunings = Pruning(clock, self._remove_svids), Pruning(clock, self._remove_tokens)

    async def page(self, before: int | None, limit: int, spiffe_id: SpiffeId | None = None) -> Sequence[IssuedSvid]:
        """Return at most `limit` records numbered below `before`, the newest first, of one id or of all."""
        async with self._transactions() as repository:
            return await repository.svids(before, limit, spiffe_id)

    async def maintain(self) -> None:
        """Remove some of what is past its retention, and find the oldest SVID in use, if that is due."""
        for pruning in self._prunings:
            await pruning.maintain()
        if self._clock.monotonic() - self._measured_at >= MEASURE_SECONDS:
            await self._measure()

    async def _measure(self) -> None:
        async with self._transactions() as repository:
            oldest = await repository.oldest_svid(self._clock.now())
        self._metrics.oldest_svid.set((), oldest.timestamp() if oldest else 0.0)
        if oldest is not None:
            self._measured_at = self._clock.monotonic()

    async def _remove_svids(self, limit: int) -> int:
        async with self._transactions() as repository:
            return await repository.remove_svids(self._clock.now() - SVID_RETENTION, limit)

    async def _remove_tokens(self, limit: int) -> int:
        async with self._transactions() as repository:
            return await repository.remove_tokens(self._clock.now() - TOKEN_RETENTION, limit)
