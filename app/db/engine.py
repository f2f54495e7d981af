"""Making the engine: SQLite with WAL by default, PostgreSQL by URL."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

from app.core.errors import InvalidInputError
from app.core.private_files import ensure_database_file
from app.db import sqlite_driver
from app.db.errors import DatabaseAwayError, is_busy

# How long a writer of another process is waited for before the call fails.
SQLITE_BUSY_TIMEOUT_MS = 5_000
# How often a file that others write to is asked to become one with a write-ahead log.
SQLITE_WAL_RETRY_MS = 10
# How long a call waits for a connection of the pool.
POOL_TIMEOUT_SECONDS = 5
# PostgreSQL allows 100 connections unless told otherwise; several replicas share them.
POSTGRES_POOL_SIZE = 10
POSTGRES_POOL_OVERFLOW = 5
POSTGRES_CONNECT_TIMEOUT_SECONDS = 5
POSTGRES_COMMAND_TIMEOUT_SECONDS: float | None = 10
# How long a connection that is given up may take to be closed gracefully.
CLOSE_SECONDS = 0.5

SQLITE_DRIVER = "sqlite+aiosqlite"
POSTGRES_DRIVER = "postgresql+asyncpg"


def create_engine(
    url: str | URL,
    *,
    command_timeout: float | None = POSTGRES_COMMAND_TIMEOUT_SECONDS,
    busy_timeout_ms: int = SQLITE_BUSY_TIMEOUT_MS,
) -> AsyncEngine:
    """Return an engine for `sqlite+aiosqlite:///path` or `postgresql+asyncpg://…`.

    `command_timeout` is what one statement may take on PostgreSQL, in seconds, None without end; `busy_timeout_ms` how
    long a writer of another process is waited for on SQLite.
    Raises InvalidInputError, without repeating the URL's password, if the URL is of another kind.
    """
    parsed = parse_url(url)
    return (
        _sqlite(parsed, busy_timeout_ms) if parsed.drivername == SQLITE_DRIVER else _postgres(parsed, command_timeout)
    )


def parse_url(url: str | URL) -> URL:
    """Return the URL in its parts. Raises InvalidInputError, without repeating its password, if it is not supported."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise InvalidInputError("database URL cannot be parsed: use postgresql+asyncpg://user@host/name") from error
    if parsed.drivername not in {SQLITE_DRIVER, POSTGRES_DRIVER}:
        raise InvalidInputError(
            f"database URL of kind {parsed.drivername!r} is not supported: "
            "use sqlite+aiosqlite:///… or postgresql+asyncpg://…"
        )
    if parsed.drivername == SQLITE_DRIVER and parsed.database in {None, "", ":memory:"}:
        raise InvalidInputError("database URL names no file: use sqlite+aiosqlite:///path/to/meshward.db")
    return parsed


def sqlite_url(path: Path) -> str:
    """Return the URL of the SQLite database in the file `path`."""
    return URL.create(SQLITE_DRIVER, database=str(path)).render_as_string()


def redacted_url(url: str) -> str:
    """Return the URL with `***` for the password, wherever it stands in it. Raises as `parse_url` does."""
    parsed = parse_url(url)
    hidden = {name: "***" for name in parsed.query if "pass" in name.lower()}
    return parsed.update_query_dict(hidden).render_as_string(hide_password=True)


async def dispose(engine: AsyncEngine) -> None:
    """Close the connections of the engine, to the end even if the caller is cancelled meanwhile."""
    await to_end(engine.dispose())


async def to_end(work: Coroutine[Any, Any, None]) -> None:
    """Await `work`, to its end even if the caller is cancelled meanwhile."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


class HeldBack:
    """Refuses the connections of an engine, as a database that is away does, until `release`: `reason` is why."""

    def __init__(self, engine: AsyncEngine, reason: str) -> None:
        self.reason, self._engine = reason, engine.sync_engine
        event.listen(self._engine, "do_connect", self._refuse, insert=True)

    def release(self) -> None:
        """Let the engine connect. Does nothing a second time."""
        if event.contains(self._engine, "do_connect", self._refuse):
            event.remove(self._engine, "do_connect", self._refuse)

    def _refuse(self, *_arguments: object) -> None:
        raise DatabaseAwayError(self.reason)


@asynccontextmanager
async def time_limit(seconds: float) -> AsyncIterator[None]:
    """Raise TimeoutError if the block, which awaits calls of the database, takes longer than `seconds`.

    The connection is then closed, gracefully if that takes CLOSE_SECONDS at most: SQLAlchemy waits for a reply of the
    server before it closes a connection, and stops waiting when it is cancelled a second time.
    """
    async with asyncio.timeout(seconds + CLOSE_SECONDS), asyncio.timeout(seconds):
        yield


def place_of(url: URL) -> str:
    """Return what an error message calls the database: its file or host, and never its password."""
    if url.drivername.startswith("sqlite"):
        return f"the SQLite database {url.database or ':memory:'}"
    host = url.host or str(url.query.get("host", "localhost"))
    port = f":{url.port}" if url.port else ""
    return f"the PostgreSQL database {url.database!r} at {host}{port}"


def _sqlite(url: URL, busy_timeout_ms: int) -> AsyncEngine:
    # One connection: SQLite has one writer, and waiting in the pool's queue is fair and wakes at once, where waiting
    # for each other's file lock is a poll.
    engine = create_async_engine(
        url, hide_parameters=True, pool_size=1, max_overflow=0, pool_timeout=POOL_TIMEOUT_SECONDS
    )

    def connect(dialect: Any, _record: Any, arguments: Any, options: Any) -> Any:
        try:
            with suppress(FileNotFoundError):  # the driver reports it
                ensure_database_file(Path(str(url.database)))
            # The driver opens in a thread, which it leaves behind, on its way to a loop that may have ended, if that
            # fails: so find out here.
            sqlite3.connect(str(url.database)).close()
            options["async_creator_fn"] = sqlite_driver.connect
            connection = dialect.connect(*arguments, **options)
        except (sqlite3.Error, OSError) as error:
            raise DatabaseAwayError(f"cannot open {place_of(url)}: {error}") from error
        try:
            _prepare_sqlite(connection, busy_timeout_ms)
        except sqlite3.Error as error:
            connection.close()
            raise DatabaseAwayError(f"cannot use {place_of(url)}: {error}") from error
        except asyncio.CancelledError:  # who asked has gone; the driver's thread must go as well
            connection.close()
            raise
        return connection

    event.listen(engine.sync_engine, "do_connect", connect)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, busy_timeout_ms: int) -> None:
    # The driver's own BEGIN comes late and deferred: a reader that then writes while another one has written fails
    # at once, whatever the timeout. Ours is sent by _begin_sqlite.
    connection.isolation_level = None
    cursor = connection.cursor()
    _use_write_ahead_log(cursor, busy_timeout_ms)
    for pragma in (
        f"busy_timeout={busy_timeout_ms}",
        "synchronous=FULL",  # what was answered as done survives a power cut
        "foreign_keys=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _use_write_ahead_log(cursor: Any, busy_timeout_ms: int) -> None:
    # SQLite's own timeout does not hold here: while another process, at its first start too, writes to a file that has
    # no write-ahead log yet, this statement fails at once. So we ask again, and let SQLite wait for nothing.
    cursor.execute("PRAGMA busy_timeout=0")
    for tries_left in range(busy_timeout_ms // SQLITE_WAL_RETRY_MS, -1, -1):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if not tries_left or not is_busy(error):
                raise
            await_only(asyncio.sleep(SQLITE_WAL_RETRY_MS / 1000))
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _postgres(url: URL, command_timeout: float | None) -> AsyncEngine:
    try:
        engine = create_async_engine(
            url,
            hide_parameters=True,
            pool_pre_ping=True,
            pool_size=POSTGRES_POOL_SIZE,
            max_overflow=POSTGRES_POOL_OVERFLOW,
            pool_timeout=POOL_TIMEOUT_SECONDS,
            connect_args={"timeout": POSTGRES_CONNECT_TIMEOUT_SECONDS, "command_timeout": command_timeout},
        )
    except ModuleNotFoundError as error:
        raise InvalidInputError("PostgreSQL needs a driver: run pip install 'meshward[postgres]'") from error

    def connect(dialect: Any, _record: Any, arguments: Any, options: Any) -> Any:
        try:
            return dialect.connect(*arguments, **options)
        # The driver raises its own classes here, the system's, and ValueError for options of the URL.
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise DatabaseAwayError(f"cannot connect to {place_of(url)}: {reason}") from error

    event.listen(engine.sync_engine, "do_connect", connect)
    return engine
