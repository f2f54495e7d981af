"""Migrations on real databases: they make what the code expects, once, and refuse what is not theirs."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

import migrations
from app.core.errors import PreconditionError, UnavailableError
from app.db.engine import create_engine
from app.db.migrate import LOCK_TIMEOUT_MS, POSTGRES_LOCK, configuration, current, newest, upgrade
from app.db.transactions import Transactions
from app.documents.model import StoredDocument
from app.documents.repository import SqlDocumentRepository
from migrations.tables import METADATA


async def differences(engine):
    def compare(connection):
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return compare_metadata(context, METADATA)

    async with engine.connect() as connection:
        return await connection.run_sync(compare)


async def tables(engine):
    async with engine.connect() as connection:
        return set(await connection.run_sync(lambda connection: inspect(connection).get_table_names()))


async def test_an_empty_database_gets_what_the_code_expects(engine):
    assert await current(engine) == ""
    assert await upgrade(engine) == ""
    assert await current(engine) == newest()
    assert await differences(engine) == []
    assert await tables(engine) == {*METADATA.tables, "alembic_version"}


def test_no_tables_are_left_out_of_the_comparison():
    root = Path(migrations.__file__).parent.parent
    imported = (root / "migrations" / "tables.py").read_text()
    for path in (root / "app").glob("*/tables.py"):
        assert f"import app.{path.parent.name}.tables" in imported


async def test_the_comparison_sees_a_table_that_no_migration_makes(engine):
    await upgrade(engine)
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE document_revisions"))
    assert [difference[0] for difference in await differences(engine)] == ["add_table"]


async def test_upgrading_twice_changes_nothing(engine):
    await upgrade(engine)
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO document_revisions (kind, revision) VALUES ('quota', 7)"))
    assert await upgrade(engine) == newest()
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT revision FROM document_revisions"))).scalar_one() == 7


# Rows of a database at step 0002, as that version wrote them: the time has no zone on SQLite.
ROWS_AT_0002 = """
INSERT INTO authz_policies VALUES ('shop', 'a', '{"spec": {"x": "ключ"}}', 3, '2026-03-04 05:06:07.890000');
INSERT INTO authz_policies VALUES ('web', 'a', '{"spec": {}}', 5, '2026-03-04 05:06:08');
INSERT INTO authz_revision VALUES (1, 6);
INSERT INTO quota_configs VALUES ('shop/eg/http', '{"domain": "shop/eg/http"}', 2, '2026-03-04 05:06:09');
INSERT INTO quota_revision VALUES (1, 4);
"""


@pytest.mark.parametrize("step", ["0001", "0002"])
async def test_documents_of_older_versions_are_kept_with_their_versions(engine, step):
    async with engine.begin() as connection:
        await connection.run_sync(lambda connection: command.upgrade(configuration(connection), step))
        if connection.dialect.name == "postgresql":
            await connection.execute(text("SET LOCAL TIME ZONE 'UTC'"))
        for statement in ROWS_AT_0002.strip().split("\n"):
            await connection.exec_driver_sql(statement)
    assert await upgrade(engine) == step
    assert await differences(engine) == []
    second = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
    async with Transactions(engine, partial(SqlDocumentRepository, kind="policy"))() as repository:
        assert await repository.page(None, 9, None) == [
            StoredDocument("shop", "a", {"spec": {"x": "ключ"}}, 3, second + timedelta(milliseconds=890)),
            StoredDocument("web", "a", {"spec": {}}, 5, second + timedelta(seconds=1)),
        ]
        assert (await repository.revision(), await repository.next_revision()) == (6, 7)
    async with Transactions(engine, partial(SqlDocumentRepository, kind="quota"))() as repository:
        assert await repository.all() == [
            StoredDocument("", "shop/eg/http", {"domain": "shop/eg/http"}, 2, second + timedelta(seconds=2))
        ]
        assert await repository.revision() == 4


async def test_replicas_that_start_at_once_upgrade_once(engine, database_url):
    engines = [create_engine(database_url) for _ in range(4)]
    found = await asyncio.gather(*(upgrade(engine) for engine in engines))
    assert sorted(found) == ["", *[newest()] * 3]
    assert await differences(engine) == []
    for other in engines:
        await other.dispose()


async def test_a_database_of_a_newer_version_is_refused_and_left_alone(engine):
    await upgrade(engine)
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(PreconditionError, match="'9999', which this version does not know"):
        await upgrade(engine)
    assert await current(engine) == "9999"


async def test_a_database_of_somebody_else_is_refused_and_left_alone(engine):
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE ca_entries (a INTEGER)"))
    with pytest.raises(PreconditionError, match="has tables but no record"):
        await upgrade(engine)
    assert await tables(engine) == {"ca_entries"}


async def test_a_step_that_fails_leaves_nothing_behind(engine, monkeypatch):
    def fail(*_arguments, **_options):
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        # Indices come after the tables that they are on.
        patch.setattr("alembic.operations.BatchOperations.create_index", fail)
        with pytest.raises(RuntimeError, match="power cut"):
            await upgrade(engine)
    assert await tables(engine) == set()
    await upgrade(engine)
    assert await differences(engine) == []


async def test_a_replica_that_migrates_is_waited_for_but_not_without_end(postgres_url, monkeypatch):
    monkeypatch.setattr("app.db.migrate.LOCK_TIMEOUT_MS", 1)
    one, other = create_engine(postgres_url), create_engine(postgres_url)
    async with one.begin() as connection:
        await connection.execute(text(f"SELECT pg_advisory_xact_lock({POSTGRES_LOCK})"))
        with pytest.raises(UnavailableError, match="cannot migrate"):
            await upgrade(other)
    await upgrade(other)
    assert LOCK_TIMEOUT_MS == 60_000
    await one.dispose()
    await other.dispose()


async def test_a_database_that_is_away_is_named(tmp_path):
    engine = create_engine(f"postgresql+asyncpg://user:hunter2@/shop?host={tmp_path}")
    for use in (upgrade, current):
        with pytest.raises(UnavailableError, match=re.escape(str(tmp_path))) as caught:
            await use(engine)
        assert "hunter2" not in caught.value.message
    await engine.dispose()
