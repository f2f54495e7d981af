"""Statements on SQLite: each takes one turn of the driver's thread, and has its own rows."""

import asyncio
import sqlite3

import pytest

from app.db import sqlite_driver


@pytest.fixture
async def connection(tmp_path):
    connected = await sqlite_driver.connect(str(tmp_path / "rows.db"))
    yield connected
    await connected.close()


@pytest.fixture
def turns(connection, monkeypatch):
    """What the driver's thread was asked to do."""
    asked = []
    execute = connection._execute

    async def counted(function, *arguments):
        asked.append(function)
        return await execute(function, *arguments)

    monkeypatch.setattr(connection, "_execute", counted)
    return asked


async def run(connection, sql, parameters=None):
    cursor = await connection.cursor()
    await cursor.execute(sql, parameters)
    rows = await cursor.fetchall()
    await cursor.close()
    return rows


async def test_a_statement_takes_one_turn_of_the_thread(connection, turns):
    assert await run(connection, "SELECT 1 UNION SELECT 2") == [(1,), (2,)]
    assert await run(connection, "CREATE TABLE t (n INTEGER)") == []
    assert len(turns) == 2


async def test_cursors_that_are_open_at_once_have_their_own_rows(connection):
    first, second = await connection.cursor(), await connection.cursor()
    await asyncio.gather(first.execute("SELECT 1"), second.execute("SELECT ?", (2,)))
    assert (await first.fetchall(), await second.fetchall()) == ([(1,)], [(2,)])
    assert await first.fetchall() == []


async def test_a_fault_leaves_the_connection_usable(connection):
    with pytest.raises(sqlite3.OperationalError):
        await run(connection, "SELECT FROM")
    assert await run(connection, "SELECT 1") == [(1,)]


async def test_a_statement_whose_caller_left_leaves_the_connection_usable(connection):
    cursor = await connection.cursor()
    left = asyncio.create_task(cursor.execute("SELECT 1"))
    await asyncio.sleep(0)
    left.cancel()
    assert await run(connection, "SELECT 2") == [(2,)]
