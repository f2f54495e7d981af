"""Making the engine: SQLite with WAL by default, PostgreSQL by URL."""

from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.core.errors import InvalidInputError

# How long a writer waits for another one before the call fails, in milliseconds (SQLite) and seconds (the pool).
SQLITE_BUSY_TIMEOUT_MS = 5_000
POOL_TIMEOUT_SECONDS = 5
POSTGRES_CONNECT_TIMEOUT_SECONDS = 5
POSTGRES_COMMAND_TIMEOUT_SECONDS = 10


def create_engine(url: str) -> AsyncEngine:
    """Return an engine for `sqlite+aiosqlite:///path` or `postgresql+asyncpg://…`.

    Raises InvalidInputError, without repeating the URL's password, if the URL is of another kind.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise InvalidInputError("database URL cannot be parsed: use postgresql+asyncpg://user@host/name") from error
    match parsed.drivername:
        case "sqlite+aiosqlite":
            engine = create_async_engine(parsed)
            event.listen(engine.sync_engine, "connect", _set_sqlite_pragmas)
            return engine
        case "postgresql+asyncpg":
            return create_async_engine(
                parsed,
                pool_pre_ping=True,
                pool_timeout=POOL_TIMEOUT_SECONDS,
                connect_args={
                    "timeout": POSTGRES_CONNECT_TIMEOUT_SECONDS,
                    "command_timeout": POSTGRES_COMMAND_TIMEOUT_SECONDS,
                },
            )
        case other:
            raise InvalidInputError(
                f"database URL of kind {other!r} is not supported: use sqlite+aiosqlite:///… or postgresql+asyncpg://…"
            )


def _set_sqlite_pragmas(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",  # what was answered as done survives a power cut
        "foreign_keys=ON",
        f"busy_timeout={SQLITE_BUSY_TIMEOUT_MS}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
