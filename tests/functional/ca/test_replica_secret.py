"""The secret that replicas share: on disk, and the rows that its first start adopts."""

import stat
from datetime import timedelta

import pytest
from alembic import command
from sqlalchemy import column, inspect, select, table, text

from app.authz.rules.api_keys import ApiKeySpec
from app.ca.backends.replica_secret import ReplicaSecret
from app.ca.model import EntrySpec
from app.core.errors import PreconditionError, UnavailableError
from app.db.base import Base
from app.db.migrate import configuration, upgrade
from app.main.row_secret import rotate_secret
from app.spiffe.id import SpiffeId
from tests.fakes.principals import OPERATOR
from tests.support.ca_store import ca_transactions

CART = SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/cart")
TABLES = ("ca_roots", "ca_signers", "ca_join_tokens", "ca_entries")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys" / "replica.secret"


async def test_a_secret_is_made_once_and_kept_when_it_is_settled(path):
    first = ReplicaSecret(path, required=False)
    with pytest.raises(UnavailableError):
        first.value()
    assert not await first.open()
    assert not path.exists()
    # As after a crash, and as another process with this data directory finds it.
    again = ReplicaSecret(path, required=False)
    assert not await again.open()
    assert again.value() == first.value()
    await first.settle()
    await again.settle()
    assert path.read_bytes() == first.value()
    assert len(first.value()) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["replica.secret"]
    later = ReplicaSecret(path, required=True)
    assert await later.open()
    assert later.value() == first.value()


async def test_a_secret_that_is_named_is_not_made(path):
    with pytest.raises(PreconditionError, match="there is no file"):
        await ReplicaSecret(path, required=True).open()
    assert not path.parent.exists()


@pytest.mark.parametrize(("content", "mode"), [(b"short", 0o600), (bytes(33), 0o600), (bytes(32), 0o644)])
async def test_a_secret_that_is_not_one_or_that_others_can_read_is_refused(path, content, mode):
    path.parent.mkdir(mode=0o700)
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(PreconditionError, match=r"replica\.secret"):
        await ReplicaSecret(path, required=False).open()


async def rows(engine, table):
    async with engine.connect() as connection:
        found = await connection.execute(select(Base.metadata.tables[table]))
        return [dict(row) for row in found.mappings()]


@pytest.mark.parametrize("step", ["0001", "0002", "0003"])
async def test_the_rows_of_older_versions_are_adopted_by_the_start_that_makes_the_secret(
    control_plane, engine, step, tmp_path
):
    one = control_plane("one")
    await upgrade(engine)
    await one.ca.start()
    entry = await one.ca.entries.create(OPERATOR, EntrySpec(CART, timedelta(hours=1), ("cart.shop.svc",)))
    token = await one.ca.join_tokens.create(OPERATOR, CART)
    bundle = one.ca.authorities.bundle()
    kept = {table: await rows(engine, table) for table in TABLES}
    await downgrade(engine, step, kept)
    (tmp_path / "one/keys/replica.secret").unlink()
    assert await upgrade(engine) == step

    upgraded = control_plane("one")
    await upgraded.ca.start()
    assert upgraded.ca.authorities.bundle() == bundle
    assert upgraded.ca.authorities.active().signer == one.ca.authorities.active().signer
    assert await upgraded.ca.entries.page(None, 9) == [entry]
    assert await upgraded.ca.join_tokens.page(None, 9) == []
    assert token.token.id in {row["id"] for row in await rows(engine, "ca_join_tokens")}
    # What has no MAC afterwards is not adopted by a later start.
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE ca_entries SET mac = NULL"))
    again = control_plane("one")
    await again.ca.start()
    assert await again.ca.entries.page(None, 9) == []


def column_names(connection, table):
    return {column["name"] for column in inspect(connection).get_columns(table)}


async def downgrade(engine, step, kept):
    """Make the database one of an older version, with the rows that it had."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
        await connection.execute(text("DROP TABLE alembic_version"))
        await connection.run_sync(lambda connection: command.upgrade(configuration(connection), step))
        for name, found in kept.items():
            had = await connection.run_sync(column_names, name)
            columns = [each for each in Base.metadata.tables[name].columns if each.name in had]
            older = table(name, *(column(each.name, each.type) for each in columns))
            for row in found:
                values = {each.name: row.get(each.name, row.get(each.key)) for each in columns}
                await connection.execute(older.insert().values(values))


async def test_a_data_directory_without_the_secret_is_refused_where_another_has_one(control_plane, engine, tmp_path):
    await upgrade(engine)
    one = control_plane("one")
    await one.ca.start()
    two = control_plane("two")
    with pytest.raises(PreconditionError, match="written with another secret"):
        await two.ca.start()
    assert not (tmp_path / "two/keys/replica.secret").exists()
    copy = tmp_path / "two/keys/replica.secret"
    copy.write_bytes((tmp_path / "one/keys/replica.secret").read_bytes())
    copy.chmod(0o600)
    two = control_plane("two")
    await two.ca.start()
    assert two.ca.authorities.bundle() == one.ca.authorities.bundle()


async def test_a_replica_with_another_secret_sees_nothing_of_the_first(control_plane, engine, tmp_path):
    await upgrade(engine)
    one = control_plane("one")
    await one.ca.start()
    (tmp_path / "two/keys").mkdir(mode=0o700, parents=True)
    (tmp_path / "two").chmod(0o700)
    (tmp_path / "two/keys/replica.secret").write_bytes(bytes(32))
    (tmp_path / "two/keys/replica.secret").chmod(0o600)
    with pytest.raises(PreconditionError, match="root of the CA"):
        await control_plane("two").ca.start()
    assert len(await rows(engine, "ca_roots")) == 1
    async with ca_transactions(engine, bytes(32))() as repository:
        assert await repository.roots() == []


async def test_a_secret_is_replaced_and_what_it_authenticated_stays_authentic(control_plane, engine, tmp_path):
    await upgrade(engine)
    one = control_plane("one")
    await one.ca.start()
    entry = await one.ca.entries.create(OPERATOR, EntrySpec(CART, None, ("cart.shop.svc",)))
    created = await one.ca.join_tokens.create(OPERATOR, CART)
    forged = await one.ca.join_tokens.create(OPERATOR, CART)
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE ca_join_tokens SET mac = NULL WHERE id = :id"), {"id": forged.token.id})
    secret = (tmp_path / "one/keys/replica.secret").read_bytes()

    assert await rotate_secret(one.settings, trust_rows=False) == 5
    assert (tmp_path / "one/keys/replica.secret").read_bytes() != secret
    again = control_plane("one")
    await again.ca.start()
    assert again.ca.authorities.bundle() == one.ca.authorities.bundle()
    assert again.ca.authorities.waiting_for is None
    assert await again.ca.entries.page(None, 9) == [entry]
    assert [token.id for token in await again.ca.join_tokens.page(None, 9)] == [created.token.id]
    with pytest.raises(PreconditionError):
        await one.ca.maintain()


@pytest.mark.parametrize("trust_rows", [False, True])
async def test_api_keys_are_accepted_after_a_rotation(control_plane, engine, trust_rows):
    await upgrade(engine)
    one = control_plane("one")
    await one.ca.start()
    await one.api_keys.refresh()
    created = await one.api_keys.create(OPERATOR, ApiKeySpec("partner-a"), None)
    await rotate_secret(one.settings, trust_rows=trust_rows)
    again = control_plane("one")
    await again.ca.start()
    await again.api_keys.refresh()
    assert again.api_keys.known() == [created.key]
    assert await one.api_keys.page(None, 9) == []


async def test_a_rotation_that_was_interrupted_is_repeated(control_plane, engine, tmp_path, monkeypatch):
    await upgrade(engine)
    one = control_plane("one")
    await one.ca.start()

    async def fail(_self):
        raise PreconditionError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(ReplicaSecret, "settle", fail)
        with pytest.raises(PreconditionError, match="power cut"):
            await rotate_secret(one.settings, trust_rows=False)
    assert await rotate_secret(one.settings, trust_rows=False) == 0
    again = control_plane("one")
    await again.ca.start()
    assert again.ca.authorities.bundle() == one.ca.authorities.bundle()


async def test_a_lost_secret_is_replaced_by_believing_the_root_the_entries_and_the_bans(
    control_plane, engine, tmp_path
):
    await upgrade(engine)
    one = control_plane("one")
    await one.ca.start()
    entry = await one.ca.entries.create(OPERATOR, EntrySpec(CART, None, ("cart.shop.svc",)))
    ban = await one.ca.bans.ban(OPERATOR, str(CART), "why", None)
    await one.ca.join_tokens.create(OPERATOR, CART)
    (tmp_path / "one/keys/replica.secret").unlink()
    with pytest.raises(PreconditionError, match="written with another secret"):
        await control_plane("one").ca.start()
    with pytest.raises(PreconditionError, match="no secret to replace"):
        await rotate_secret(one.settings, trust_rows=False)
    assert await rotate_secret(one.settings, trust_rows=True) == 4
    again = control_plane("one")
    await again.ca.start()
    assert again.ca.authorities.bundle() == one.ca.authorities.bundle()
    assert again.ca.authorities.waiting_for is None
    assert await again.ca.entries.page(None, 9) == [entry]
    assert await again.ca.bans.page(None, 9) == [ban]
    assert await again.ca.join_tokens.page(None, 9) == []
