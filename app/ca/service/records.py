"""The records of issued SVIDs, and how long they and join tokens are kept."""

from collections.abc import Sequence
from datetime import timedelta

from app.ca.model import IssuedSvid
from app.ca.ports import CaTransactions
from app.core.clock import Clock
from app.core.pruning import Pruning
from app.spiffe.id import SpiffeId

# Counted from the end of the certificate or token, for those who investigate what happened.
SVID_RETENTION = timedelta(days=30)
TOKEN_RETENTION = timedelta(days=7)


class Records:
    """Lists the records of issued SVIDs; removes, once an hour, records and join tokens past their retention."""

    def __init__(self, transactions: CaTransactions, clock: Clock) -> None:
        self._transactions, self._clock = transactions, clock
        self._prunings = Pruning(clock, self._remove_svids), Pruning(clock, self._remove_tokens)

    async def page(self, before: int | None, limit: int, spiffe_id: SpiffeId | None = None) -> Sequence[IssuedSvid]:
        """Return at most `limit` records numbered below `before`, the newest first, of one id or of all."""
        async with self._transactions() as repository:
            return await repository.svids(before, limit, spiffe_id)

    async def maintain(self) -> None:
        """Remove some of what is past its retention, if that is due."""
        for pruning in self._prunings:
            await pruning.maintain()

    async def _remove_svids(self, limit: int) -> int:
        async with self._transactions() as repository:
            return await repository.remove_svids(self._clock.now() - SVID_RETENTION, limit)

    async def _remove_tokens(self, limit: int) -> int:
        async with self._transactions() as repository:
            return await repository.remove_tokens(self._clock.now() - TOKEN_RETENTION, limit)
