"""Numbers for the changes of a feature, one after the other, so that replicas can tell whether they have seen the last.

A feature's sequence is a table of its own with the columns `id` and `revision`, and one row in it.
"""

from sqlalchemy import Table, select, text
from sqlalchemy.ext.asyncio import AsyncSession

_ID = 1


class RevisionSequence:
    """The sequence in `table`."""

    def __init__(self, table: Table) -> None:
        self._table = table
        # One statement on both databases, so that the first two writers ever cannot both insert the row. It holds the
        # row, on SQLite the database, until the transaction ends.
        self._next = text(
            f"INSERT INTO {table.name} (id, revision) VALUES (:id, 1) "  # noqa: S608 - the name of a table of ours
            f"ON CONFLICT (id) DO UPDATE SET revision = {table.name}.revision + 1 RETURNING revision"
        )

    async def next(self, session: AsyncSession) -> int:
        """Return the number of the change that this transaction makes; no other writer goes on until it ends."""
        return int((await session.execute(self._next, {"id": _ID})).scalar_one())

    async def last(self, session: AsyncSession) -> int:
        """Return the number of the last change, 0 if there was none."""
        query = select(self._table.c.revision).where(self._table.c.id == _ID)
        return await session.scalar(query) or 0
