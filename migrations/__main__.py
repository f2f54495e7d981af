"""Write the next step: `python -m migrations "what it changes"`, from the difference between tables and steps."""

import asyncio
import sys
import tempfile
from pathlib import Path

from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from app.db.engine import create_engine, sqlite_url
from app.db.migrate import configuration, upgrade


async def write(message: str) -> None:
    """Write the step that brings a database at the last step to what the code expects."""
    with tempfile.TemporaryDirectory() as directory:
        engine = create_engine(sqlite_url(Path(directory) / "empty.db"))
        await upgrade(engine)
        async with engine.connect() as connection:
            await connection.run_sync(_write, message)
        await engine.dispose()


def _write(connection: Connection, message: str) -> None:
    config = configuration(connection)
    number = len(list(ScriptDirectory.from_config(config).walk_revisions())) + 1
    command.revision(config, message, autogenerate=True, rev_id=f"{number:04}")


if __name__ == "__main__":
    asyncio.run(write(sys.argv[1]))
