"""The audit log's use cases: list records, and forget those past their retention."""

from collections.abc import Sequence
from datetime import timedelta

from app.audit.model import AuditRecord
from app.audit.ports import AuditFilter, AuditTransactions
from app.core.clock import Clock

PRUNING_SECONDS = 3600.0
# What one transaction removes, so that other writers do not wait for it.
MAX_FORGOTTEN_PER_PASS = 5_000


class AuditLog:
    """Lists the records, and forgets, once an hour, those older than `retention`."""

    def __init__(self, transactions: AuditTransactions, clock: Clock, retention: timedelta) -> None:
        self._transactions, self._clock, self._retention = transactions, clock, retention
        self._pruned_at: float | None = None

    async def page(self, before: int | None, limit: int, wanted: AuditFilter) -> Sequence[AuditRecord]:
        """Return at most `limit` records numbered below `before`, the newest first. Raises UnavailableError."""
        async with self._transactions() as repository:
            return await repository.records(before, limit, wanted)

    async def maintain(self) -> None:
        """Forget some of what is past its retention, unless all of it was forgotten within the last hour."""
        elapsed = self._clock.monotonic()
        if self._pruned_at is not None and elapsed - self._pruned_at < PRUNING_SECONDS:
            return
        async with self._transactions() as repository:
            forgotten = await repository.forget(self._clock.now() - self._retention, MAX_FORGOTTEN_PER_PASS)
        if forgotten < MAX_FORGOTTEN_PER_PASS:
            self._pruned_at = elapsed
