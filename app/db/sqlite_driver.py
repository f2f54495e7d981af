"""aiosqlite with one turn of its thread for each statement, where it takes three or four.

A turn costs about as much as a small statement: opening a cursor, executing, fetching and closing each took one.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import aiosqlite
from aiosqlite.context import contextmanager

_Row = tuple[Any, ...]


def connect(database: str, **options: Any) -> "SqliteConnection":
    """Return a connection to be awaited: what SQLAlchemy's aiosqlite dialect takes for one. Options are sqlite3's."""
    connection = SqliteConnection(partial(sqlite3.connect, database, **{**options, "check_same_thread": False}), 1)
    connection._thread.daemon = True  # noqa: SLF001 - as SQLAlchemy does: an engine that is not closed ends with the process
    return connection


class Step(NamedTuple):
    """A statement, and the parameters of each time that it is executed."""

    text: str
    rows: Sequence[_Row]


class SqliteConnection(aiosqlite.Connection):
    """A connection whose cursors are opened and closed here, for that touches no file."""

    async def execute_steps(self, steps: Sequence[Step]) -> list[list[_Row]]:
        """Execute statements one after the other in one turn, and return the rows that each finds."""
        turn = self._execute(_rows_of_each, self._conn, steps)  # type: ignore[no-untyped-call]
        found: list[list[_Row]] = await turn
        return found

    @contextmanager
    async def cursor(self) -> "SqliteCursor":  # type: ignore[override]
        """Return a new cursor."""
        return SqliteCursor(self, self._conn.cursor())


class SqliteCursor(aiosqlite.Cursor):
    """A cursor that has its rows when its statement was executed. It is used by one task at a time."""

    def __init__(self, connection: SqliteConnection, cursor: sqlite3.Cursor) -> None:
        super().__init__(connection, cursor)
        self._rows: list[Any] = []

    async def execute(self, sql: str, parameters: Iterable[Any] | None = None) -> "SqliteCursor":
        """Execute a statement and fetch its rows."""
        turn = self._execute(_rows_of, self._cursor, sql, parameters or ())  # type: ignore[no-untyped-call]
        self._rows = await turn
        return self

    async def fetchall(self) -> Iterable[Any]:
        """Return all rows of the statement."""
        rows, self._rows = self._rows, []
        return rows

    async def close(self) -> None:
        """Close the cursor."""
        self._cursor.close()


def _rows_of(cursor: sqlite3.Cursor, sql: str, parameters: Any) -> list[Any]:
    cursor.execute(sql, parameters)
    return cursor.fetchall() if cursor.description else []


def _rows_of_each(connection: sqlite3.Connection, steps: Sequence[Step]) -> list[list[_Row]]:
    cursor, found = connection.cursor(), list[list[_Row]]()
    for text, rows in steps:
        if len(rows) > 1:
            cursor.executemany(text, rows)
        else:
            cursor.execute(text, rows[0])
        found.append(cursor.fetchall() if cursor.description else [])
    cursor.close()
    return found
