"""Authorization's queries."""

from collections.abc import Iterable

from sqlalchemy import delete, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from app.authz.model import StoredPolicy
from app.authz.ports import PolicyKey
from app.authz.tables import PolicyRevisionRow, PolicyRow
from app.db.revisions import RevisionSequence

_REVISIONS = RevisionSequence(PolicyRevisionRow.metadata.tables[PolicyRevisionRow.__tablename__])


class SqlPolicyRepository:
    """A PolicyRepository over one session, whose transaction somebody else commits."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def next_revision(self) -> int:
        """Return the number of the change that this transaction makes; no other writer goes on until it ends."""
        return await _REVISIONS.next(self._session)

    async def revision(self) -> int:
        """Return the number of the last change, 0 if there was none."""
        return await _REVISIONS.last(self._session)

    async def get(self, namespace: str, name: str) -> StoredPolicy | None:
        """Return the policy."""
        row = await self._session.get(PolicyRow, (namespace, name))
        return _stored(row) if row else None

    async def put(self, policy: StoredPolicy) -> None:
        """Keep `policy` in place of what had its namespace and name."""
        await self._session.merge(
            PolicyRow(
                namespace=policy.namespace,
                name=policy.name,
                document=dict(policy.document),
                version=policy.version,
                updated_at=policy.updated_at,
            )
        )
        await self._session.flush()

    async def delete(self, namespace: str, name: str) -> None:
        """Remove the policy."""
        await self._session.execute(delete(PolicyRow).where(PolicyRow.namespace == namespace, PolicyRow.name == name))

    async def count(self) -> int:
        """Return how many policies there are."""
        return await self._session.scalar(select(func.count()).select_from(PolicyRow)) or 0

    async def all(self) -> list[StoredPolicy]:
        """Return every policy."""
        return _all(await self._session.scalars(select(PolicyRow)))

    async def page(self, after: PolicyKey | None, limit: int, namespace: str | None) -> list[StoredPolicy]:
        """Return up to `limit` policies after the key `after`, in order of key; of one namespace if it is given."""
        query = select(PolicyRow).order_by(PolicyRow.namespace, PolicyRow.name).limit(limit)
        if after is not None:
            query = query.where(tuple_(PolicyRow.namespace, PolicyRow.name) > after)
        if namespace is not None:
            query = query.where(PolicyRow.namespace == namespace)
        return _all(await self._session.scalars(query))


def _all(rows: Iterable[PolicyRow]) -> list[StoredPolicy]:
    return [_stored(row) for row in rows]


def _stored(row: PolicyRow) -> StoredPolicy:
    return StoredPolicy(row.namespace, row.name, row.document, row.version, row.updated_at)
