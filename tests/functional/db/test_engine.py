"""The engine on real databases."""

from sqlalchemy import text

from app.db.engine import create_engine


async def test_a_database_starts_empty_and_answers(engine):
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE t (a INTEGER)"))
        assert (await connection.execute(text("SELECT count(*) FROM t"))).scalar_one() == 0


async def test_two_engines_share_one_database(engine, database_url):
    other = create_engine(database_url)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE t (a INTEGER)"))
    async with other.connect() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM t"))).scalar_one() == 0
    await other.dispose()
