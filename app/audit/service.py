"""The audit log's use cases."""

from collections.abc import Sequence
from datetime import timedelta

from app.audit.model import AuditRecord
from app.audit.ports import AuditFilter, AuditTransactions
from app.core.clock import Clock
from app.core.pruning import Pruning


class AuditLog:
    """Lists the records; removes, once an hour, those older than `retention`."""

    def __init__(self, transactions: AuditTransactions, clock: Clock, retention: timedelta) -> None:
        self._transactions, self._clock, self._retention = transactions, clock, retention
        self._pruning = Pruning(clock, self._remove)

    async def page(self, before: int | None, limit: int, wanted: AuditFilter) -> Sequence[AuditRecord]:
        """Return at most `limit` records numbered below `before`, the newest first. Raises UnavailableError."""
        async with self._transactions() as repository:
            return await repository.records(before, limit, wanted)

    async def maintain(self) -> None:
        """Remove some of what is past its retention, if that is due."""
        await self._pruning.maintain()

    async def _remove(self, limit: int) -> int:
        async with self._transactions() as repository:
            return await repository.remove_records(self._clock.now() - self._retention, limit)
