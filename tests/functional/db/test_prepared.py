"""Statements that are compiled once: each finds and stores what SQLAlchemy's own execution does."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, bindparam, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.prepared import Prepared, execute
from app.db.types import TEXTS, WHOLE_SECONDS, UtcDateTime

metadata = MetaData()
things = Table(
    "things",
    metadata,
    Column("name", String(8), primary_key=True),
    Column("lasts", WHOLE_SECONDS),
    Column("made_at", UtcDateTime()),
    Column("words", TEXTS),
    Column("count", Integer, server_default="7"),
)
NOON = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
TIMES = [
    NOON,
    NOON.replace(microsecond=7),
    NOON.astimezone(timezone(timedelta(hours=-7))),
    datetime(999, 2, 3, 4, 5, 6, 700, tzinfo=UTC),
    None,
]
# In another order than the table's.
ADD = Prepared(insert(things), ("made_at", "name", "words", "lasts"))
NAMED = things.c.name == bindparam("wanted", type_=String())
FIND = Prepared(select(things).where(NAMED), ("wanted",))


@pytest.fixture
async def session(engine):
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    async with AsyncSession(engine) as session:
        yield session


async def test_rows_are_stored_and_found_as_sqlalchemy_does_it(session):
    rows = [(time, f"{number}", ("a", "ü"), timedelta(minutes=number)) for number, time in enumerate(TIMES)]
    await execute(session, ADD(*rows))
    stored = [(name, lasts, time, words, 7) for time, name, words, lasts in rows]
    assert [tuple(row) for row in await session.execute(select(things).order_by(things.c.name))] == stored
    assert await execute(session, *(FIND((row[0],)) for row in stored), FIND(("none",))) == [
        *([row] for row in stored),
        [],
    ]


async def test_rows_are_changed_and_removed(session):
    await execute(session, ADD((NOON, "a", (), None), (NOON, "b", (), None)))
    changing = Prepared(update(things).where(NAMED), ("count", "wanted"))
    await execute(session, changing((1, "a"), (2, "b")), Prepared(delete(things).where(NAMED), ("wanted",))(("a",)))
    assert (await session.execute(select(things.c.name, things.c.count))).all() == [("b", 2)]


async def test_a_second_of_its_kind_is_refused_with_all_of_its_statement(session):
    await execute(session, ADD((NOON, "a", (), None)))
    await session.commit()
    with pytest.raises(IntegrityError):
        await execute(session, ADD((NOON, "b", (), None), (NOON, "a", (), None)))
    await session.rollback()
    assert (await session.scalars(select(things.c.name))).all() == ["a"]


async def test_a_time_without_a_zone_is_refused(session):
    with pytest.raises(ValueError, match="aware"):
        await execute(session, ADD((NOON.replace(tzinfo=None), "a", (), None)))
