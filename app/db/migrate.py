"""Bringing a database to the shape that this version of the code expects."""

from importlib.resources import files

import structlog
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.errors import PreconditionError, UnavailableError
from app.db.engine import create_engine, dispose, place_of
from app.db.errors import translate

# The package that has the steps. It imports the tables, so that nothing here may import it: it is found by its name.
STEPS = "migrations"
# How long a replica waits for another one that is migrating.
LOCK_TIMEOUT_MS = 60_000
# The name of the lock among PostgreSQL's advisory locks: "meshward" in ASCII.
POSTGRES_LOCK = int.from_bytes(b"meshward")

_log = structlog.get_logger(__name__)


async def upgrade(engine: AsyncEngine) -> str:
    """Bring the database to the newest step, all in one transaction, and return the step it was at ("" if empty).

    Replicas that start at once do it one after the other; the later ones find nothing to do. Raises PreconditionError
    if the database was written by a newer version, or is not Meshward's; UnavailableError if it cannot be reached.
    """
    # A step may take longer than any call: an engine of its own, without a limit on the time of a statement.
    patient = create_engine(engine.url, command_timeout=None, busy_timeout_ms=LOCK_TIMEOUT_MS)
    try:
        async with patient.begin() as connection:
            if connection.dialect.name == "postgresql":
                await connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"))
                await connection.execute(text(f"SELECT pg_advisory_xact_lock({POSTGRES_LOCK})"))
            return await connection.run_sync(_upgrade, place_of(engine.url))
    except (SQLAlchemyError, OSError, TimeoutError) as error:
        problem = translate(error)
        raise type(problem)(f"cannot migrate {place_of(engine.url)}: {problem.message}") from error
    finally:
        await dispose(patient)


async def current(engine: AsyncEngine) -> str:
    """Return the step that the database is at, "" if it is empty. Raises UnavailableError if it cannot be reached."""
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(_current)
    except (SQLAlchemyError, OSError, TimeoutError) as error:
        raise UnavailableError(f"cannot read {place_of(engine.url)}: {translate(error).message}") from error


def newest() -> str:
    """Return the step that this version of the code expects."""
    head = ScriptDirectory.from_config(configuration()).get_current_head()
    return head or ""


def configuration(connection: Connection | None = None) -> Config:
    """Return Alembic's configuration for the steps that ship with this version."""
    config = Config()
    config.set_main_option("script_location", str(files(STEPS)).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _upgrade(connection: Connection, place: str) -> str:
    before = _current(connection)
    if before:
        known = {script.revision for script in ScriptDirectory.from_config(configuration()).walk_revisions()}
        if before not in known:
            raise PreconditionError(
                f"{place} is at step {before!r}, which this version does not know: a newer version of Meshward wrote "
                "it; start that one, or restore a backup from before"
            )
    elif inspect(connection).get_table_names():
        raise PreconditionError(f"{place} has tables but no record of Meshward's steps: use an empty database")
    if before != newest():
        command.upgrade(configuration(connection), "head")
        _log.info("database_upgraded", before=before, now=newest())
    return before


def _current(connection: Connection) -> str:
    return MigrationContext.configure(connection).get_current_revision() or ""
