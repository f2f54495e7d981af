"""The unit of work: committed whole or not at all, and errors in this project's kinds."""

import asyncio

import pytest
from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table, insert, select, text

from app.core.errors import ConflictError, InternalError, InvalidInputError, PreconditionError, UnavailableError
from app.db.engine import create_engine
from app.db.transactions import Transactions

metadata = MetaData()
things = Table("things", metadata, Column("name", String(8), primary_key=True))
parts = Table("parts", metadata, Column("id", Integer, primary_key=True), Column("thing", ForeignKey("things.name")))


class Things:
    def __init__(self, session):
        self._session = session

    async def add(self, name):
        await self._session.execute(insert(things).values(name=name))

    async def add_part(self, thing):
        await self._session.execute(insert(parts).values(thing=thing))

    async def names(self):
        return list(await self._session.scalars(select(things.c.name)))

    async def nonsense(self):
        await self._session.execute(text("SELECT nothing FROM nowhere"))


@pytest.fixture
async def transactions(engine):
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    return Transactions(engine, Things)


async def names(transactions):
    async with transactions() as repository:
        return await repository.names()


async def add(transactions, *names, between=None):
    """Add the names in one transaction, with `between` done after each."""
    async with transactions() as repository:
        for name in names:
            await repository.add(name)
            if between is not None:
                await between()


async def test_a_block_that_ends_is_committed(transactions):
    await add(transactions, "a")
    assert await names(transactions) == ["a"]


async def test_a_second_of_its_kind_is_a_conflict_and_undoes_the_block(transactions):
    await add(transactions, "a")
    with pytest.raises(ConflictError) as caught:
        await add(transactions, "b", "a")
    assert "INSERT" not in caught.value.message
    assert await names(transactions) == ["a"]


async def test_a_reference_to_nothing_is_a_conflict(transactions):
    with pytest.raises(ConflictError):
        async with transactions() as repository:
            await repository.add_part("missing")


async def test_an_error_of_our_own_passes_through_and_undoes_the_block(transactions):
    error = PreconditionError("not now")

    async def refuse():
        raise error

    with pytest.raises(PreconditionError) as caught:
        await add(transactions, "a", between=refuse)
    assert caught.value is error
    assert await names(transactions) == []


async def test_a_cancelled_block_is_undone_and_leaves_the_pool_in_order(transactions):
    written = asyncio.Event()

    async def write():
        async with transactions() as repository:
            await repository.add("a")
            written.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(write())
    async with asyncio.timeout(10):
        await written.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await names(transactions) == []


async def test_a_statement_that_is_wrong_is_our_fault_and_not_told(transactions):
    with pytest.raises(InternalError) as caught:
        async with transactions() as repository:
            await repository.nonsense()
    assert "nowhere" not in caught.value.message


async def test_a_value_that_postgres_cannot_store_is_the_callers_fault(postgres_url):
    engine = create_engine(postgres_url)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    for value in ("nul\x00", "longer than eight"):
        with pytest.raises(InvalidInputError):
            async with Transactions(engine, Things)() as repository:
                await repository.add(value)
    await engine.dispose()


async def test_a_database_that_is_away_is_unavailable_and_its_place_is_not_told(tmp_path):
    for url in (f"postgresql+asyncpg://user@/shop?host={tmp_path}", f"sqlite+aiosqlite:///{tmp_path}/missing/a.db"):
        engine = create_engine(url)
        with pytest.raises(UnavailableError) as caught:
            await names(Transactions(engine, Things))
        assert str(tmp_path) not in caught.value.message
        await engine.dispose()


async def test_a_database_that_went_away_is_unavailable_and_comes_back(postgres_url):
    engine = create_engine(postgres_url)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    transactions = Transactions(engine, Things)
    with pytest.raises(UnavailableError):
        await add(transactions, "a", "b", between=lambda: _terminate_all_but_one(postgres_url))
    assert await names(transactions) == []
    await engine.dispose()


async def test_a_writer_of_another_process_that_takes_too_long_makes_us_unavailable(tmp_path):
    url = f"sqlite+aiosqlite:///{tmp_path / 'a.db'}"
    one, two = create_engine(url), create_engine(url, busy_timeout_ms=1)
    async with one.begin() as connection:
        await connection.run_sync(metadata.create_all)
        with pytest.raises(UnavailableError):
            await names(Transactions(two, Things))
    assert await names(Transactions(two, Things)) == []
    await one.dispose()
    await two.dispose()


async def _terminate_all_but_one(url):
    """End every other connection to the database, as a failover does."""
    engine = create_engine(url)
    async with engine.connect() as connection:
        await connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    await engine.dispose()
