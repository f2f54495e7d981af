"""Statements that are executed often: compiled once, and executed without what SQLAlchemy does for each execution.

Values are converted by the types of their columns, as always.
"""

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, Delete, Dialect, Insert, Select, Update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.util import await_only

from app.db.sqlite_driver import SqliteConnection, Step

Row = tuple[Any, ...]

Statement = Select[Any] | Insert | Update | Delete


class Execution(NamedTuple):
    """A statement, and the values to execute it with: once for each row."""

    statement: "Prepared"
    rows: Sequence[Row]


class Prepared:
    """A statement whose parameters are the bound values `names`: each row has theirs, in this order."""

    def __init__(self, statement: Statement, names: Sequence[str] = ()) -> None:
        self._statement, self._names = statement, tuple(names)
        self._compiled: dict[str, _Compiled] = {}

    def __call__(self, *rows: Row) -> Execution:
        """Return the execution with these rows; a SELECT is executed with one."""
        return Execution(self, rows or ((),))

    def compiled(self, dialect: Dialect) -> "_Compiled":
        """Return the statement as a dialect has it."""
        found = self._compiled.get(dialect.name)
        if found is None:
            found = self._compiled[dialect.name] = _compile(self._statement, self._names, dialect)
        return found


async def execute(session: AsyncSession, *executions: Execution) -> list[list[Row]]:
    """Execute statements one after the other in the session's transaction, and return the rows that each finds."""
    return await session.run_sync(_execute, executions)


def _execute(session: Session, executions: Sequence[Execution]) -> list[list[Row]]:
    connection = session.connection()
    compiled = [statement.compiled(connection.dialect) for statement, _ in executions]
    given = (_converted(each.given, rows) for each, (_, rows) in zip(compiled, executions, strict=True))
    steps = [Step(each.text, rows) for each, rows in zip(compiled, given, strict=True)]
    driver = connection.connection.driver_connection
    found = _in_one_turn(driver, steps) if isinstance(driver, SqliteConnection) else _in_turn(connection, steps)
    return [_converted(each.returned, rows) for each, rows in zip(compiled, found, strict=True)]


def _in_turn(connection: Connection, steps: Sequence[Step]) -> list[list[Row]]:
    found = []
    for text, rows in steps:
        result = connection.exec_driver_sql(text, rows if len(rows) > 1 else rows[0])
        found.append([tuple(row) for row in result] if result.returns_rows else [])
    return found


def _in_one_turn(driver: SqliteConnection, steps: Sequence[Step]) -> list[list[Row]]:
    try:
        return await_only(driver.execute_steps(steps))
    except sqlite3.Error as error:
        raise DBAPIError.instance(None, None, error, sqlite3.Error) from error


class Column(NamedTuple):
    """The place of a value in the rows that are converted, and its conversion, None if it stays as it is."""

    place: int
    convert: Callable[[Any], Any] | None


@dataclass(frozen=True, slots=True)
class _Compiled:
    """The text of a statement, and what is made of the values that it is given, and of those that it returns."""

    text: str
    given: Sequence[Column]
    returned: Sequence[Column]


def _compile(statement: Statement, names: tuple[str, ...], dialect: Dialect) -> _Compiled:
    if isinstance(statement, Insert):
        statement = statement.inline()  # which returns no key
    compiled: Any = statement.compile(dialect=dialect, column_keys=list(names) or None)
    given = [
        Column(names.index(name), compiled.binds[name].type.dialect_impl(dialect).bind_processor(dialect))
        for name in compiled.positiontup
    ]
    returned = [
        Column(place, column.type.dialect_impl(dialect).result_processor(dialect, None))
        for place, column in enumerate(statement.selected_columns if isinstance(statement, Select) else ())
    ]
    return _Compiled(str(compiled), given, returned)


def _converted(columns: Sequence[Column], rows: Sequence[Row]) -> list[Row]:
    """Return the rows with these columns. It goes column by column, which takes half the time."""
    if not columns or not rows:
        return list(rows)
    values = list(zip(*rows, strict=True))
    converted = (values[place] if convert is None else map(convert, values[place]) for place, convert in columns)
    return list(zip(*converted, strict=True))
