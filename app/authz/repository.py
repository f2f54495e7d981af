"""Authorization's queries: API keys. Nothing here commits; `ApiKeyRepository` in `ports.py` documents each method."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import delete, func, or_, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.audit.repository import SqlAuditTrail
from app.authz.ports import ApiKeyRepository
from app.authz.rules.api_keys import ApiKey
from app.authz.tables import ApiKeyRevisionRow, ApiKeyRow
from app.db.authentic import AuthenticRows, Refused
from app.db.base import Base
from app.db.macs import RowMacs
from app.db.rows import affected

REVISION = select(Base.metadata.tables[ApiKeyRevisionRow.__tablename__].c.revision)
# One statement on both databases, so that the first two writers ever cannot both insert the row.
NEXT_REVISION = text(
    "INSERT INTO authz_api_key_revisions (id, revision) VALUES (1, 1) "
    "ON CONFLICT (id) DO UPDATE SET revision = authz_api_key_revisions.revision + 1 RETURNING revision"
)


def authentic_keys(macs: RowMacs, refused: Refused) -> AuthenticRows[ApiKey]:
    """Return the table of API keys, whose rows carry MACs."""
    return AuthenticRows(ApiKeyRow, ApiKey, macs, refused)


class SqlApiKeyRepository(SqlAuditTrail, ApiKeyRepository):
    """An ApiKeyRepository over one session."""

    def __init__(self, session: AsyncSession, keys: AuthenticRows[ApiKey]) -> None:
        super().__init__(session)
        self._keys = keys

    async def revision(self) -> int:
        return await self._session.scalar(REVISION) or 0

    async def next_revision(self) -> int:
        return int((await self._session.execute(NEXT_REVISION)).scalar_one())

    async def count(self) -> int:
        return await self._session.scalar(select(func.count()).select_from(ApiKeyRow)) or 0

    async def get(self, key_id: str) -> ApiKey | None:
        return await self._keys.first(self._session, self._keys.select().where(ApiKeyRow.id == key_id))

    async def page(self, after: str | None, limit: int) -> Sequence[ApiKey]:
        return await self._keys.page(self._session, "id", after, limit)

    async def changed(self, since: int) -> Sequence[ApiKey]:
        return await self._keys.all(self._session, self._keys.select().where(ApiKeyRow.revision > since))

    async def add(self, key: ApiKey) -> None:
        await self._keys.insert(self._session, key)

    async def revoke(self, key_id: str, now: datetime, revision: int) -> ApiKey | None:
        query = self._keys.select().where(ApiKeyRow.id == key_id, ApiKeyRow.revoked_at.is_(None))
        changed = await self._keys.change(
            self._session, query, lambda key: replace(key, revoked_at=now, revision=revision)
        )
        return changed[0] if changed else None

    async def remove_ended(self, before: datetime, limit: int) -> int:
        ended = or_(ApiKeyRow.expires_at < before, ApiKeyRow.revoked_at < before)
        stale = select(ApiKeyRow.id).where(ended).limit(limit)
        return await affected(self._session, delete(ApiKeyRow).where(ApiKeyRow.id.in_(stale)))

    async def renew_macs(self, known: RowMacs | None) -> int:
        """Give the rows that `known` verifies, all if it is None, MACs of this secret; return how many those were."""
        return await self._keys.renew_macs(self._session, known)
