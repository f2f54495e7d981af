"""Queries of the records of issued SVIDs."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import String, delete, func, or_, select, type_coerce

from app.ca.model import IssuedSvid
from app.ca.repository.authentic import CaQueries
from app.ca.rules.bans import EVERYTHING_BELOW
from app.ca.tables import SvidRow
from app.db.rows import Rows, affected
from app.spiffe.id import SpiffeId

SVIDS = Rows(SvidRow, IssuedSvid)


class SvidQueries(CaQueries):
    """What `CaRepository` has under "Issued SVIDs"."""

    async def add_svids(self, svids: Sequence[IssuedSvid]) -> None:
        await SVIDS.insert(self._session, *svids)

    async def svids(self, before: int | None, limit: int, spiffe_id: SpiffeId | None) -> Sequence[IssuedSvid]:
        query = SVIDS.select().order_by(SvidRow.number.desc()).limit(limit)
        if before is not None:
            query = query.where(SvidRow.number < before)
        if spiffe_id is not None:
            query = query.where(SvidRow.spiffe_id == spiffe_id)
        return await SVIDS.all(self._session, query)

    async def svid(self, serial: str) -> IssuedSvid | None:
        return await SVIDS.first(self._session, SVIDS.select().where(SvidRow.serial == serial))

    async def oldest_svid(self, now: datetime) -> datetime | None:
        oldest = select(func.min(SvidRow.issued_at)).where(SvidRow.not_after > now)
        found: datetime | None = (await self._session.execute(oldest)).scalar()
        return found

    async def remove_svids(self, ended_before: datetime, limit: int) -> int:
        stale = select(SvidRow.number).where(SvidRow.not_after < ended_before).limit(limit)
        return await affected(self._session, delete(SvidRow).where(SvidRow.number.in_(stale)))

    async def live_svids(
        self, signer_id: str, subjects: Sequence[str], now: datetime, limit: int
    ) -> Sequence[IssuedSvid]:
        spiffe_id = type_coerce(SvidRow.spiffe_id, String)
        prefixes = [each.removesuffix("*") for each in subjects if each.endswith(EVERYTHING_BELOW)]
        named = or_(
            SvidRow.serial.in_(subjects),
            spiffe_id.in_(subjects),
            *(spiffe_id.startswith(prefix, autoescape=True) for prefix in prefixes),
        )
        query = SVIDS.select().where(SvidRow.signer_id == signer_id, SvidRow.not_after > now, named).limit(limit)
        return await SVIDS.all(self._session, query)

    async def has_live_svids(self, signer_id: str, now: datetime) -> bool:
        query = select(SvidRow.number).where(SvidRow.signer_id == signer_id, SvidRow.not_after > now).limit(1)
        return (await self._session.execute(query)).first() is not None
