"""Real databases: a SQLite file and a PostgreSQL server that pip installed, empty for every test."""

import itertools

import pytest

from app.db.engine import create_engine
from tests.support.postgres import Postgres

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres_server():
    """A running PostgreSQL; its data live in a directory that ends with the session."""
    server = Postgres()
    yield server
    server.end()


@pytest.fixture
async def postgres_url(postgres_server):
    """The URL of a PostgreSQL database that nobody else uses, empty."""
    name = f"test_{next(_numbers)}"
    await postgres_server.execute(f"CREATE DATABASE {name}")
    yield postgres_server.url(name)
    await postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def stopped_and_started():
    """A second server, for the tests that stop or freeze it."""
    server = Postgres()
    yield server
    server.end()


@pytest.fixture
async def own_postgres(stopped_and_started):
    """A PostgreSQL that one test alone uses, to stop or freeze it; its database is empty."""
    server = stopped_and_started
    yield server
    server.thaw()
    server.start()
    await server.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")


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
