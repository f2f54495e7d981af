"""Dataclasses as rows of a table whose columns have the names of their fields."""

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sqlalchemy import CursorResult, Executable, Select, insert, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.schema import ScalarElementColumnDefault

from app.core.errors import InternalError
from app.db.base import Base
from app.db.prepared import Execution, Prepared, execute

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Record = TypeVar("Record", bound="DataclassInstance")


class Rows(Generic[Record]):
    """The rows of a table as values of a dataclass. The table may have more columns than the dataclass has fields."""

    def __init__(self, table: type[Base], record: type[Record]) -> None:
        self._record = record
        rows = Base.metadata.tables[table.__tablename__]
        self._insert, self._inserts = insert(rows), dict[tuple[str, ...], Prepared]()
        self._names = tuple(field.name for field in fields(record))
        self._defaults = {
            column.key: column.default.arg
            for column in rows.c
            if isinstance(column.default, ScalarElementColumnDefault)
        }
        self.columns = [rows.c[name] for name in self._names]

    def select(self) -> Select[Any]:
        """Return the query of every row, to be narrowed and ordered."""
        return select(*self.columns)

    async def all(self, session: AsyncSession, statement: Executable) -> Sequence[Record]:
        """Return the records of the rows that a statement returns with `columns`."""
        return [self._record(**row) for row in (await session.execute(statement)).mappings()]

    async def first(self, session: AsyncSession, statement: Executable) -> Record | None:
        """Return the record of the first row that a statement returns with `columns`, None if there is no row."""
        row = (await session.execute(statement)).mappings().first()
        return None if row is None else self._record(**row)

    async def insert(self, session: AsyncSession, *records: Record, **more: object) -> None:
        """Store records, and `more` columns beside their fields. What is None in all is left to its default."""
        await execute(session, self.insertion(*records, **more))

    def insertion(self, *records: Record, **more: object) -> Execution:
        """Return what `insert` executes."""
        given = [name for name in self._names if any(getattr(record, name) is not None for record in records)]
        defaults = {name: value for name, value in self._defaults.items() if name not in given}
        added = {**defaults, **{name: value for name, value in more.items() if value is not None}}
        names, last = (*given, *added), tuple(added.values())
        if names not in self._inserts:
            self._inserts[names] = Prepared(self._insert, names)
        return self._inserts[names](*((*(getattr(record, name) for name in given), *last) for record in records))


def values_of(record: "DataclassInstance") -> dict[str, Any]:
    """Return the fields of a dataclass by their names, each as it is."""
    return {field.name: getattr(record, field.name) for field in fields(record)}


async def affected(session: AsyncSession, statement: Executable) -> int:
    """Execute an UPDATE or DELETE and return the number of rows that it changed."""
    result = await session.execute(statement)
    if not isinstance(result, CursorResult):
        raise InternalError("the database did not report how many rows it changed")
    return result.rowcount
