"""The audit log's queries."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import CursorResult, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.audit.model import AuditRecord
from app.audit.ports import AuditFilter
from app.audit.tables import AuditRow
from app.core.errors import InternalError


class SqlAuditTrail:
    """An AuditTrail over one session: the base of every repository that changes something."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def record(self, record: AuditRecord) -> None:
        """Store a record; it commits with the change, or not at all."""
        await self._session.execute(
            insert(AuditRow).values(
                at=record.at,
                principal=record.principal,
                credential=record.credential,
                address=record.address,
                request_id=record.request_id,
                action=record.action,
                target=record.target,
                before=_plain(record.before),
                after=_plain(record.after),
            )
        )


class SqlAuditRepository(SqlAuditTrail):
    """An AuditRepository over one session."""

    async def records(self, before: int | None, limit: int, wanted: AuditFilter) -> Sequence[AuditRecord]:
        """Return at most `limit` records numbered below `before`, the newest first."""
        query = select(AuditRow).order_by(AuditRow.number.desc()).limit(limit)
        if before is not None:
            query = query.where(AuditRow.number < before)
        for column, value in (
            (AuditRow.principal, wanted.principal),
            (AuditRow.action, wanted.action),
            (AuditRow.target, wanted.target),
        ):
            if value is not None:
                query = query.where(column == value)
        return [_record(row) for row in await self._session.scalars(query)]

    async def forget(self, recorded_before: datetime, limit: int) -> int:
        """Remove at most `limit` records made before the time, and return how many were removed."""
        stale = select(AuditRow.number).where(AuditRow.at < recorded_before).limit(limit)
        result = await self._session.execute(delete(AuditRow).where(AuditRow.number.in_(stale)))
        if not isinstance(result, CursorResult):
            raise InternalError("the database did not say how many rows it changed")
        return result.rowcount


def _plain(state: object) -> object:
    return None if state is None else dict(state)  # type: ignore[call-overload]  # a JSON object


def _record(row: AuditRow) -> AuditRecord:
    return AuditRecord(
        at=row.at,
        principal=row.principal,
        credential=row.credential,
        address=row.address,
        request_id=row.request_id,
        action=row.action,
        target=row.target,
        before=row.before,
        after=row.after,
        number=row.number,
    )
