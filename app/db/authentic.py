"""Rows that carry a MAC: what was not written with the secret of the replicas is not read."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sqlalchemy import Executable, Select, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.errors import InternalError, InvalidInputError
from app.db.base import Base
from app.db.macs import RowMacs
from app.db.rows import Rows, affected, values_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Record = TypeVar("Record", bound="DataclassInstance")

# Rows that are read at once where all of a table are.
PAGE_ROWS = 1000

Row = dict[str, Any]
Refused = Callable[[str, str], None]
"""Takes the table and the id of a row that is left out because its MAC is not valid."""


class AuthenticRows(Generic[Record]):
    """The rows of a table with the columns `id` and `mac`, as values of a dataclass.

    The MAC covers the columns of the dataclass's fields, and `more`; those `added` after there were rows it covers
    where they have a value, so that a row of before keeps its MAC. A row without a valid one is left out of what is
    read, and reported.
    """

    def __init__(
        self,
        table: type[Base],
        record: type[Record],
        macs: RowMacs,
        refused: Refused,
        more: tuple[str, ...] = (),
        added: tuple[str, ...] = (),
    ) -> None:
        self._rows, self._record, self._macs, self._refused = Rows(table, record), record, macs, refused
        self._table = Base.metadata.tables[table.__tablename__]
        self.name, self._more, self._added = self._table.name, more, added
        # In the order of `_columns`, whose last one is the MAC.
        self._names = tuple(column.key for column in (*self._rows.columns, *(self._table.c[name] for name in more)))
        self._columns = [*self._rows.columns, *(self._table.c[name] for name in more), self._table.c.mac]

    def select(self) -> Select[Any]:
        """Return the query of every row, to be narrowed and ordered."""
        return select(*self._columns)

    async def all(
        self,
        session: AsyncSession,
        statement: Executable,
        trusted: Callable[[Record], bool] = lambda _: False,
    ) -> Sequence[Record]:
        """Return the authentic records of a query from `select`, and those that are `trusted` without a MAC."""
        return self._authentic(await self._read(session, statement), trusted)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Raise InternalError if the block, which reads rows, finds a value that is none of its column's type."""
        try:
            yield
        except (ValueError, TypeError, InvalidInputError) as error:
            raise InternalError(f"the table {self.name} has a value that cannot be read") from error

    def authentic(self, rows: Sequence[Sequence[Any]]) -> Sequence[Record]:
        """Return the authentic records of rows that a query from `select` has found."""
        return self._authentic([self._of_columns(row) for row in rows])

    async def unauthentic(self, session: AsyncSession, statement: Executable) -> Sequence[Record]:
        """Return the records of a query from `select` that are not authentic."""
        read = await self._read(session, statement)
        return [self._of(row) for row, mac in read if not self._verifies(row, mac)]

    async def first(self, session: AsyncSession, statement: Executable) -> Record | None:
        """Return the first authentic record of a query from `select`, None if there is none."""
        found = await self.all(session, statement)
        return found[0] if found else None

    async def page(self, session: AsyncSession, order: str, after: object, limit: int) -> Sequence[Record]:
        """Return at most `limit` authentic records whose column `order` is above `after`, in its order."""
        column, found = self._table.c[order], list[Record]()
        while len(found) < limit:
            query = self.select().order_by(column).limit(limit)
            if after is not None:
                query = query.where(column > after)
            read = await self._read(session, query)
            found += self._authentic(read)
            if len(read) < limit:
                break
            after = read[-1][0][order]
        return found[:limit]

    async def insert(self, session: AsyncSession, record: Record, **more: object) -> None:
        """Store a record, and `more` columns beside its fields, with its MAC."""
        row = {**values_of(record), **more}
        await self._rows.insert(session, record, **more, mac=self._mac(row))

    async def change(
        self, session: AsyncSession, query: Select[Any], change: Callable[[Record], Record | None]
    ) -> Sequence[Record]:
        """Replace each authentic record of a query from `select` by what `change` makes of it, and return those.

        A record for which that is None is left as it is. Of any number of transactions that change a row at once, each
        finds what the one before has made of it; they lock rows in one order, and so do not wait for each other.
        """
        changed = []
        for row, mac in await self._read(session, query.order_by(self._table.c.id).with_for_update()):
            for record in self._authentic([(row, mac)]):
                new = change(record)
                if new is not None:
                    await self._write(session, {**row, **values_of(new)})
                    changed.append(new)
        return changed

    async def authenticate(self, session: AsyncSession, record: Record) -> bool:
        """Give the row that still has the values of `record` a MAC, and return whether there is one."""
        row = values_of(record)
        same = [self._table.c[name] == value for name, value in row.items()]
        given = update(self._table).where(*same).values(mac=self._mac(row))
        return await affected(session, given) > 0

    async def renew_macs(self, session: AsyncSession, known: RowMacs | None) -> int:
        """Give each row that `known` verifies, or each one if that is None, a MAC of ours, and return how many."""
        renewed, after = 0, ""
        ordered = self.select().order_by(self._table.c.id).limit(PAGE_ROWS)
        while read := await self._read(session, ordered.where(self._table.c.id > after)):
            after = read[-1][0]["id"]
            for row, mac in read:
                if known is None or known.verifies(self.name, self._covered(row), mac):
                    await self._write(session, row)
                    renewed += 1
        return renewed

    async def adopt(self, session: AsyncSession) -> int:
        """Give each row that has no MAC one, and return how many those were."""
        adopted, without = 0, self.select().where(self._table.c.mac.is_(None)).limit(PAGE_ROWS)
        while read := await self._read(session, without):
            for row, _ in read:
                await self._write(session, row)
            adopted += len(read)
        return adopted

    async def has_foreign(self, session: AsyncSession) -> bool:
        """Whether a row has a MAC that is not ours; the first PAGE_ROWS that have one are looked at."""
        query = self.select().where(self._table.c.mac.is_not(None)).limit(PAGE_ROWS)
        return any(not self._verifies(row, mac) for row, mac in await self._read(session, query))

    def _authentic(
        self, read: Sequence[tuple[Row, bytes | None]], trusted: Callable[[Record], bool] = lambda _: False
    ) -> Sequence[Record]:
        found = []
        for row, mac in read:
            record = self._of(row)
            if self._verifies(row, mac) or trusted(record):
                found.append(record)
            else:
                self._refused(self.name, row["id"])
        return found

    def _verifies(self, row: Row, mac: bytes | None) -> bool:
        return self._macs.verifies(self.name, self._covered(row), mac)

    def _mac(self, row: Row) -> bytes:
        return self._macs.mac(self.name, self._covered(row))

    def _covered(self, row: Row) -> Row:
        return {name: value for name, value in row.items() if value is not None or name not in self._added}

    def _of(self, row: Row) -> Record:
        return self._record(**{name: value for name, value in row.items() if name not in self._more})

    async def _read(self, session: AsyncSession, statement: Executable) -> Sequence[tuple[Row, bytes | None]]:
        with self.reading():
            found = (await session.execute(statement)).all()
        return [self._of_columns(row) for row in found]

    def _of_columns(self, row: Sequence[Any]) -> tuple[Row, bytes | None]:
        return dict(zip(self._names, row, strict=False)), row[-1]

    async def _write(self, session: AsyncSession, row: Row) -> None:
        by_id = update(self._table).where(self._table.c.id == row["id"])
        await session.execute(by_id.values({**row, "mac": self._mac(row)}))
