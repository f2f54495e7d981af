"""The record of what was issued, and what of it is forgotten."""

from collections.abc import Sequence
from datetime import timedelta

from app.ca.model import IssuedSvid
from app.ca.ports import CaTransactions
from app.core.clock import Clock
from app.spiffe.id import SpiffeId

# Records are kept for a while after the certificate's end, for whoever looks into what happened.
SVID_RETENTION = timedelta(days=30)
TOKEN_RETENTION = timedelta(days=7)
PRUNING_SECONDS = 3600.0
# What one transaction removes: more in a second than is issued, and not so much that issuing waits for it.
MAX_FORGOTTEN_PER_PASS = 5_000


class Records:
    """Lists issued SVIDs and forgets, once an hour, the records that are past their retention."""

    def __init__(self, transactions: CaTransactions, clock: Clock) -> None:
        self._transactions, self._clock = transactions, clock
        self._pruned_at: float | None = None

    async def page(self, before: int | None, limit: int, spiffe_id: SpiffeId | None = None) -> Sequence[IssuedSvid]:
        """Return at most `limit` records numbered below `before`, the newest first, of one id or of all."""
        async with self._transactions() as repository:
            return await repository.svids(before, limit, spiffe_id)

    async def maintain(self) -> None:
        """Forget some of what is past its retention, unless all of it was forgotten within the last hour."""
        elapsed = self._clock.monotonic()
        if self._pruned_at is not None and elapsed - self._pruned_at < PRUNING_SECONDS:
            return
        now = self._clock.now()
        async with self._transactions() as repository:
            svids = await repository.forget_svids(now - SVID_RETENTION, MAX_FORGOTTEN_PER_PASS)
            tokens = await repository.forget_tokens(now - TOKEN_RETENTION, MAX_FORGOTTEN_PER_PASS)
        if max(svids, tokens) < MAX_FORGOTTEN_PER_PASS:
            self._pruned_at = elapsed
