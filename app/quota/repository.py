"""Quota's queries."""

from collections.abc import Iterable

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.revisions import RevisionSequence
from app.quota.model import StoredConfig
from app.quota.tables import QuotaConfigRow, QuotaRevisionRow

_REVISIONS = RevisionSequence(QuotaRevisionRow.metadata.tables[QuotaRevisionRow.__tablename__])


class SqlConfigRepository:
    """A ConfigRepository over one session, whose transaction somebody else commits."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def next_revision(self) -> int:
        """Return the number of the change that this transaction makes; no other writer goes on until it ends."""
        return await _REVISIONS.next(self._session)

    async def revision(self) -> int:
        """Return the number of the last change, 0 if there was none."""
        return await _REVISIONS.last(self._session)

    async def get(self, domain: str) -> StoredConfig | None:
        """Return the configuration of `domain`."""
        row = await self._session.get(QuotaConfigRow, domain)
        return _stored(row) if row else None

    async def put(self, config: StoredConfig) -> None:
        """Keep `config` in place of what its domain had."""
        await self._session.merge(
            QuotaConfigRow(
                domain=config.domain,
                document=config.document,
                revision=config.revision,
                updated_at=config.updated_at,
            )
        )
        await self._session.flush()

    async def delete(self, domain: str) -> None:
        """Remove the configuration of `domain`."""
        await self._session.execute(delete(QuotaConfigRow).where(QuotaConfigRow.domain == domain))

    async def all(self) -> list[StoredConfig]:
        """Return every configuration."""
        return _all(await self._session.scalars(select(QuotaConfigRow)))

    async def page(self, after: str | None, limit: int) -> list[StoredConfig]:
        """Return up to `limit` configurations in order of domain, those after the domain `after`."""
        query = select(QuotaConfigRow).order_by(QuotaConfigRow.domain).limit(limit)
        if after is not None:
            query = query.where(QuotaConfigRow.domain > after)
        return _all(await self._session.scalars(query))


def _all(rows: Iterable[QuotaConfigRow]) -> list[StoredConfig]:
    return [_stored(row) for row in rows]


def _stored(row: QuotaConfigRow) -> StoredConfig:
    return StoredConfig(row.domain, row.document, row.revision, row.updated_at)
