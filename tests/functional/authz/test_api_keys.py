"""API keys on real databases: two replicas, rows that somebody else wrote, and the rotation of their secret."""

from datetime import timedelta
from functools import partial

import pytest
from sqlalchemy import text

from app.authz.backends.kept_api_keys import KeptApiKeys
from app.authz.model import Workload
from app.authz.repository import SqlApiKeyRepository, authentic_keys
from app.authz.rules.api_keys import ApiKeySpec
from app.authz.rules.credential_rules import ApiKeySource
from app.authz.rules.credentials import Proven
from app.authz.service.api_keys import REREAD_SECONDS, ApiKeys
from app.core.errors import MeshwardError
from app.core.last_good import LastGoodFile
from app.db.macs import RowMacs
from app.db.migrate import upgrade
from app.db.transactions import Transactions
from app.telemetry.metrics import Metrics
from tests.fakes.clock import ManualClock
from tests.fakes.principals import OPERATOR

SECRET, OTHER = bytes(range(32)), bytes(32)
SPEC = ApiKeySpec("partner-a", "shop", (("tier", "gold"), ("zone", "")))


def transactions(engine, refused, secret=SECRET):
    keys = authentic_keys(RowMacs(lambda: secret), lambda *row: refused.append(row))
    return Transactions(engine, partial(SqlApiKeyRepository, keys=keys))


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def refused():
    return []


@pytest.fixture
async def replicas(engine, clock, refused):
    await upgrade(engine)
    both = [ApiKeys(transactions(engine, refused), clock, Metrics()) for _ in range(2)]
    for each in both:
        await each.refresh()
    return both


def accepts(replica, created):
    return isinstance(replica.outcome(ApiKeySource(), created.text, Workload("shop")), Proven)


async def test_a_key_is_accepted_and_revoked_at_the_other_replica_after_its_next_pass(replicas):
    one, two = replicas
    created = await one.create(OPERATOR, SPEC, None)
    await two.refresh()
    assert accepts(two, created)
    assert two.known() == one.known() == [created.key]
    await one.revoke(OPERATOR, created.key.id)
    await two.refresh()
    assert not accepts(two, created)
    (listed,) = await two.page(None, 10)
    assert listed.revoked_at is not None
    assert await two.page(listed.id, 10) == []


@pytest.mark.parametrize("change", ["subject = 'admin'", "namespace = ''", "mac = NULL", "revoked_at = NULL"])
async def test_a_row_that_was_changed_in_the_database_proves_nothing(replicas, engine, clock, refused, change):
    one, two = replicas
    created = await one.create(OPERATOR, SPEC, None)
    if "revoked" in change:
        await one.revoke(OPERATOR, created.key.id)
    async with engine.begin() as connection:
        await connection.execute(text(f"UPDATE authz_api_keys SET {change}"))
    await two.refresh()
    assert not accepts(two, created)
    assert ("authz_api_keys", created.key.id) in refused
    clock.advance(REREAD_SECONDS)
    await one.refresh()
    assert not accepts(one, created)


async def test_what_cannot_be_audited_is_not_made_and_not_revoked(replicas, engine):
    one, two = replicas
    created = await one.create(OPERATOR, SPEC, None)
    async with engine.begin() as connection:
        await connection.execute(text("ALTER TABLE audit_records RENAME TO gone"))
    with pytest.raises(MeshwardError):
        await one.create(OPERATOR, SPEC, None)
    with pytest.raises(MeshwardError):
        await one.revoke(OPERATOR, created.key.id)
    async with engine.begin() as connection:
        await connection.execute(text("ALTER TABLE gone RENAME TO audit_records"))
    await two.refresh()
    assert len(two.known()) == 1
    assert accepts(two, created)


async def test_what_is_kept_in_a_file_is_what_was_known(replicas, tmp_path):
    await replicas[0].create(OPERATOR, SPEC, timedelta(days=1))
    revoked = await replicas[0].create(OPERATOR, ApiKeySpec("b"), None)
    await replicas[0].revoke(OPERATOR, revoked.key.id)
    known = replicas[0].known()
    await KeptApiKeys(LastGoodFile(tmp_path / "kept" / "api_keys", "api_keys", "db")).save(known)
    assert await KeptApiKeys(LastGoodFile(tmp_path / "kept" / "api_keys", "api_keys", "db")).load() == known
    assert revoked.text not in (tmp_path / "kept" / "api_keys").read_text()


async def test_keys_are_accepted_after_the_secret_of_the_replicas_was_replaced(replicas, engine, clock, refused):
    created = await replicas[0].create(OPERATOR, SPEC, None)
    async with transactions(engine, refused, OTHER)() as repository:
        assert await repository.renew_macs(RowMacs(lambda: SECRET)) == 1
    after = ApiKeys(transactions(engine, refused, OTHER), clock, Metrics())
    await after.refresh()
    assert accepts(after, created)
    assert refused == []
