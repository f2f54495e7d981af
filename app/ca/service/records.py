"""The record of what was issued, and what of it is forgotten."""

from collections.abc import Sequence
from datetime import timedelta

from app.ca.model import IssuedSvid
from app.ca.ports import CaTransactions
from app.core.clock import Clock
from app.core.spiffe import SpiffeId

# Records are kept for a while after the certificate's end, for whoever looks into what happened.
SVID_RETENTION = timedelta(days=30)
TOKEN_RETENTION = timedelta(days=7)
PRUNING_SECONDS = 3600.0


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
        """Forget what is past its retention, if that was not done within the last hour."""
        elapsed = self._clock.monotonic()
        if self._pruned_at is not None and elapsed - self._pruned_at < PRUNING_SECONDS:
            return
        now = self._clock.now()
        async with self._transactions() as repository:
            await repository.forget_svids(now - SVID_RETENTION)
            await repository.forget_tokens(now - TOKEN_RETENTION)
        self._pruned_at = elapsed
