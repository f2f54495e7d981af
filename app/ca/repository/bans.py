"""Queries of bans and revocation lists."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from sqlalchemy import delete, select, text

from app.ca.model import Ban
from app.ca.repository.authentic import CaQueries
from app.ca.rules.crl import Crl
from app.ca.tables import BanRevisionRow, BanRow, CrlRow
from app.db.base import Base
from app.db.prepared import Prepared, Row, execute
from app.db.rows import Rows, affected

BANS = Rows(BanRow, Ban)
CRLS = Rows(CrlRow, Crl)

_REVISION = select(Base.metadata.tables[BanRevisionRow.__tablename__].c.revision)
BAN_REVISION, HELD_REVISION = Prepared(_REVISION)(), Prepared(_REVISION.with_for_update(read=True))()
# One statement on both databases, so that the first two writers ever cannot both insert the row.
NEXT_BAN_REVISION = text(
    "INSERT INTO ca_ban_revisions (id, revision) VALUES (1, 1) "
    "ON CONFLICT (id) DO UPDATE SET revision = ca_ban_revisions.revision + 1 RETURNING revision"
)


class BanQueries(CaQueries):
    """What `CaRepository` has under "Bans" and "Revocation lists"."""

    async def ban_revision(self) -> int:
        return revision_of(*await execute(self._session, BAN_REVISION))

    async def hold_bans(self) -> int:
        return revision_of(*await execute(self._session, HELD_REVISION))

    async def next_ban_revision(self) -> int:
        return int((await self._session.execute(NEXT_BAN_REVISION)).scalar_one())

    async def bans(self) -> Sequence[Ban]:
        bans = self._tables.bans
        return await bans.all(self._session, bans.select().order_by(BanRow.subject))

    async def ban_page(self, after: str | None, limit: int) -> Sequence[Ban]:
        return await self._tables.bans.page(self._session, "subject", after, limit)

    async def add_ban(self, ban: Ban) -> None:
        await self._tables.bans.insert(self._session, ban)

    async def remove_ban(self, subject: str) -> Ban | None:
        statement = delete(BanRow).where(BanRow.subject == subject)
        return await BANS.first(self._session, statement.returning(*BANS.columns))

    async def remove_bans(self, ended_before: datetime, limit: int) -> int:
        stale = select(BanRow.id).where(BanRow.expires_at < ended_before).limit(limit)
        return await affected(self._session, delete(BanRow).where(BanRow.id.in_(stale)))

    async def crl_numbers(self) -> Mapping[str, int]:
        found = await self._session.execute(select(CrlRow.id, CrlRow.number))
        return {row.id: row.number for row in found}

    async def crls(self, authority_ids: Collection[str]) -> Sequence[Crl]:
        return await CRLS.all(self._session, CRLS.select().where(CrlRow.id.in_(authority_ids)))

    async def put_crl(self, crl: Crl) -> None:
        await self._session.execute(delete(CrlRow).where(CrlRow.id == crl.id, CrlRow.number < crl.number))
        await CRLS.insert(self._session, crl)


def revision_of(rows: Sequence[Row]) -> int:
    """Return the revision that a query of it has found; there is no row before the first change."""
    return rows[0][0] if rows else 0
