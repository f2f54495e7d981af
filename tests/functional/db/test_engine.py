"""The engine on real databases: what it is set to, what it says when the database is away."""

import asyncio
import re
import sqlite3
import threading
from contextlib import closing

import pytest
from sqlalchemy import text

from app.core.errors import InvalidInputError, UnavailableError
from app.db.engine import create_engine, dispose, sqlite_url
from app.db.migrate import current
from tests.support.serving import eventually


async def test_two_engines_share_one_database(engine, database_url):
    other = create_engine(database_url)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE t (a INTEGER)"))
    async with other.connect() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM t"))).scalar_one() == 0
    await other.dispose()


async def test_writers_of_many_processes_read_then_write_without_losing_one(engine, database_url):
    """Each reads and then writes in one transaction: with SQLite's deferred BEGIN this fails at once as `locked`."""
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE counter (n INTEGER)"))
        await connection.execute(text("INSERT INTO counter VALUES (0)"))
    engines = [create_engine(database_url) for _ in range(4)]
    lock = "" if engine.dialect.name == "sqlite" else " FOR UPDATE"

    async def count(engine):
        for _ in range(5):
            async with engine.begin() as connection:
                n = (await connection.execute(text(f"SELECT n FROM counter{lock}"))).scalar_one()
                await connection.execute(text("UPDATE counter SET n = :n"), {"n": n + 1})

    await asyncio.gather(*(count(engine) for engine in engines for _ in range(3)))
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT n FROM counter"))).scalar_one() == 60
    for other in engines:
        await other.dispose()


async def test_many_engines_may_open_one_new_sqlite_file_at_once(tmp_path):
    engines = [create_engine(f"sqlite+aiosqlite:///{tmp_path / 'new.db'}") for _ in range(8)]
    await asyncio.gather(*(current(engine) for engine in engines))
    for engine in engines:
        async with engine.connect() as connection:
            assert (await connection.execute(text("PRAGMA journal_mode"))).scalar_one() == "wal"
            assert (await connection.execute(text("PRAGMA synchronous"))).scalar_one() == 2
            assert (await connection.execute(text("PRAGMA foreign_keys"))).scalar_one() == 1
        await engine.dispose()


@pytest.fixture
def file_that_others_write_to(tmp_path):
    """A SQLite file without a write-ahead log yet, and the connection of somebody who is writing to it."""
    path = tmp_path / "new.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE t (a INTEGER)")
        other.execute("BEGIN IMMEDIATE")
        yield path, other


async def test_whoever_writes_to_a_sqlite_file_that_has_no_log_yet_is_waited_for(file_that_others_write_to):
    path, other = file_that_others_write_to
    engine = create_engine(sqlite_url(path))
    opened = asyncio.create_task(current(engine))
    assert await asyncio.wait({opened}, timeout=0.1) == (set(), {opened})
    other.execute("COMMIT")
    await opened
    async with engine.connect() as connection:
        assert (await connection.execute(text("PRAGMA journal_mode"))).scalar_one() == "wal"
    await dispose(engine)


async def test_whoever_writes_to_a_sqlite_file_that_has_no_log_yet_is_not_waited_for_without_end(
    file_that_others_write_to,
):
    path, _ = file_that_others_write_to
    engine = create_engine(sqlite_url(path), busy_timeout_ms=1)
    with pytest.raises(UnavailableError, match=re.escape(f"cannot use the SQLite database {path}: database is locked")):
        await current(engine)
    await dispose(engine)


async def test_who_gives_up_waiting_for_such_a_file_leaves_no_thread_behind(file_that_others_write_to):
    path, _ = file_that_others_write_to
    engine = create_engine(sqlite_url(path))
    before = threading.active_count()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), engine.connect():
            pytest.fail("somebody is writing")
    eventually(lambda: threading.active_count() == before, "the driver's thread to end")
    await dispose(engine)


async def test_connections_are_closed_even_if_whoever_closes_them_is_cancelled(engine, caplog):
    await current(engine)
    closing_all = asyncio.create_task(dispose(engine))
    for _ in range(3):  # the task, the one that it starts, and the driver's question to its thread or server
        await asyncio.sleep(0)
    closing_all.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing_all
    assert engine.pool.checkedin() == 0
    assert caplog.records == []


async def test_a_postgres_that_is_away_is_named_without_its_password(tmp_path):
    engine = create_engine(f"postgresql+asyncpg://user:hunter2@/shop?host={tmp_path}")
    with pytest.raises(UnavailableError, match=f"'shop' at {re.escape(str(tmp_path))}") as caught:
        await current(engine)
    assert "hunter2" not in str(caught.value)
    await engine.dispose()


async def test_a_missing_postgres_database_is_named(postgres_url):
    engine = create_engine(postgres_url.replace("/test_", "/missing_"))
    with pytest.raises(UnavailableError, match="does not exist"):
        await current(engine)
    await engine.dispose()


async def test_a_file_that_is_no_database_is_named(tmp_path):
    path = tmp_path / "meshward.db"
    path.write_text("this is a letter, not a database, and long enough to be looked at as one" * 20)
    engine = create_engine(f"sqlite+aiosqlite:///{path}")
    with pytest.raises(UnavailableError, match=f"{re.escape(str(path))}: file is not a database"):
        await current(engine)
    await engine.dispose()


async def test_a_directory_that_is_missing_is_named(tmp_path):
    engine = create_engine(f"sqlite+aiosqlite:///{tmp_path}/missing/meshward.db")
    with pytest.raises(UnavailableError, match="unable to open database file"):
        await current(engine)
    await engine.dispose()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql+aiomysql://root:hunter2@db/shop", "mysql+aiomysql"),
        ("postgresql://root:hunter2@db/shop", "use sqlite+aiosqlite"),
        ("hunter2", "cannot be parsed"),
        ("postgresql+asyncpg://root:hunter2@db:port/shop", "cannot be parsed"),
        ("sqlite+aiosqlite://", "names no file"),
        ("sqlite+aiosqlite:///:memory:", "names no file"),
    ],
)
def test_a_url_of_another_kind_is_refused_without_its_password(url, said):
    with pytest.raises(InvalidInputError, match=re.escape(said)) as caught:
        create_engine(url)
    assert "hunter2" not in str(caught.value)
