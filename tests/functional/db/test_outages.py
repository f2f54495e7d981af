"""A database that does not answer, or cannot write: every transaction ends, soon, with what is wrong."""

import asyncio
import time

import pytest
from sqlalchemy import text

from app.core.errors import UnavailableError
from app.db import errors
from app.db.engine import CLOSE_SECONDS, POSTGRES_COMMAND_TIMEOUT_SECONDS, create_engine, sqlite_url
from app.db.transactions import POSTGRES_TRANSACTION_SECONDS, Transactions

# What the operations guide promises.
ANSWER_SECONDS = 5.0
# Less than the driver's own limit of a statement, and more than a busy machine adds to the promise.
PATIENCE = 9.0
# The limit of a transaction in a test that waits for it to pass.
SHORT_SECONDS = 0.5


class Rows:
    def __init__(self, session):
        self._session = session

    async def add(self, size=1):
        await self._session.execute(text("INSERT INTO t VALUES (:a)"), {"a": "x" * size})

    async def add_read_only(self):
        await self._session.execute(text("SET TRANSACTION READ ONLY"))
        await self.add()

    async def count(self):
        return await self._session.scalar(text("SELECT count(*) FROM t"))


async def make(engine):
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE t (a TEXT)"))
    return Transactions(engine, Rows)


async def count(transactions):
    async with transactions() as rows:
        return await rows.count()


async def add(transactions, between=None, size=1):
    async with transactions() as rows:
        await rows.add(size)
        if between:
            between()
            await rows.add(size)


async def refused_in_time(*work):
    """Each is refused before any of the driver's own limits."""
    async with asyncio.timeout(PATIENCE):
        results = await asyncio.gather(*work, return_exceptions=True)
    assert {type(result) for result in results} == {UnavailableError}


@pytest.fixture
async def frozen_postgres(own_postgres, monkeypatch):
    """The transactions of an engine whose connections were used before the server stopped; their limit is short."""
    engine = create_engine(own_postgres.url())
    transactions = await make(engine)
    await asyncio.gather(*(count(transactions) for _ in range(3)))
    own_postgres.freeze()
    with monkeypatch.context() as patch:
        patch.setattr("app.db.transactions.POSTGRES_TRANSACTION_SECONDS", SHORT_SECONDS)
        yield transactions
    own_postgres.thaw()
    assert await count(transactions) == 0
    await engine.dispose()


def test_the_limit_of_a_transaction_and_of_closing_its_connection_keep_the_promise():
    assert POSTGRES_TRANSACTION_SECONDS + CLOSE_SECONDS < ANSWER_SECONDS
    assert (POSTGRES_COMMAND_TIMEOUT_SECONDS or 0) > PATIENCE


async def test_a_write_to_a_frozen_postgres_is_refused_in_time(frozen_postgres):
    await refused_in_time(add(frozen_postgres))


async def test_writes_of_more_callers_than_connections_are_refused_in_time(frozen_postgres):
    await refused_in_time(*(add(frozen_postgres) for _ in range(40)))


@pytest.mark.parametrize("moment", ["before a statement", "before the commit"])
async def test_a_postgres_that_freezes_during_a_transaction_is_refused_in_time(own_postgres, moment):
    engine = create_engine(own_postgres.url())
    transactions = await make(engine)

    async def write():
        async with transactions() as rows:
            await rows.add()
            own_postgres.freeze()
            if moment == "before a statement":
                await rows.add()

    await refused_in_time(write())
    own_postgres.thaw()
    assert await count(transactions) in ({0} if moment == "before a statement" else {0, 1})
    await engine.dispose()


async def test_the_time_between_statements_is_not_counted(postgres_url, monkeypatch):
    """Documents are compiled within the transaction that stores them."""
    monkeypatch.setattr("app.db.transactions.POSTGRES_TRANSACTION_SECONDS", SHORT_SECONDS)
    engine = create_engine(postgres_url)
    transactions = await make(engine)
    await add(transactions, between=lambda: time.sleep(1.2 * SHORT_SECONDS))
    assert await count(transactions) == 2
    await engine.dispose()


async def test_a_full_sqlite_file_is_named(tmp_path):
    engine = create_engine(sqlite_url(tmp_path / "a.db"))
    transactions = await make(engine)
    async with engine.connect() as connection:
        await connection.execute(text("PRAGMA max_page_count = 10"))
    with pytest.raises(UnavailableError, match=errors.DISK_FULL):
        await add(transactions, size=100_000)
    assert await count(transactions) == 0
    await engine.dispose()


async def test_a_standby_is_named(postgres_url):
    engine = create_engine(postgres_url)
    transactions = await make(engine)

    async def write():
        async with transactions() as rows:
            await rows.add_read_only()

    with pytest.raises(UnavailableError, match=errors.READ_ONLY):
        await write()
    await engine.dispose()


async def test_a_sqlite_file_that_can_only_be_read_is_named(tmp_path):
    engine = create_engine(sqlite_url(tmp_path / "a.db"))
    transactions = await make(engine)
    async with engine.connect() as connection:
        await connection.execute(text("PRAGMA query_only = ON"))
    with pytest.raises(UnavailableError, match=errors.READ_ONLY):
        await add(transactions)
    await engine.dispose()
