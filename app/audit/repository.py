"""The audit log's queries; the Protocols in `ports.py` document each method."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.audit.model import AuditRecord
from app.audit.ports import AuditFilter, AuditRepository, AuditTrail
from app.audit.tables import AuditRow
from app.db.rows import Rows, affected, values_of

RECORDS = Rows(AuditRow, AuditRecord)


class SqlAuditTrail(AuditTrail):
    """An AuditTrail over one session: the base of every repository that changes something."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def record(self, *records: AuditRecord) -> None:
        await RECORDS.insert(self._session, *records)


class SqlAuditRepository(SqlAuditTrail, AuditRepository):
    """An AuditRepository over one session."""

    async def records(self, before: int | None, limit: int, wanted: AuditFilter) -> Sequence[AuditRecord]:
        query = RECORDS.select().order_by(AuditRow.number.desc()).limit(limit)
        if before is not None:
            query = query.where(AuditRow.number < before)
        for name, value in values_of(wanted).items():
            if value is not None:
                query = query.where(getattr(AuditRow, name) == value)
        return await RECORDS.all(self._session, query)

    async def remove_records(self, recorded_before: datetime, limit: int) -> int:
        stale = select(AuditRow.number).where(AuditRow.at < recorded_before).limit(limit)
        return await affected(self._session, delete(AuditRow).where(AuditRow.number.in_(stale)))
