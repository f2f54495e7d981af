"""What keeps audit records, as Protocols."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from app.audit.model import AuditRecord


class AuditTrail(Protocol):
    """Where a transaction that changes something records that. Every repository that changes something is one."""

    async def record(self, *records: AuditRecord) -> None:
        """Store records, in their order; they commit with the change, or not at all."""


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which records to list: those whose fields equal all that are given."""

    principal: str | None = None
    action: str | None = None
    target: str | None = None


class AuditRepository(AuditTrail, Protocol):
    """The stored records, within one transaction."""

    async def records(self, before: int | None, limit: int, wanted: AuditFilter) -> Sequence[AuditRecord]:
        """Return at most `limit` records numbered below `before`, the newest first."""

    async def remove_records(self, recorded_before: datetime, limit: int) -> int:
        """Remove at most `limit` records made before the time, and return how many were removed."""


AuditTransactions = Callable[[], AbstractAsyncContextManager[AuditRepository]]
