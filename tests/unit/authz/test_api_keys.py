"""API keys: made once, revoked for good, read by other replicas, and what of them is written down."""

from datetime import timedelta

import pytest

from app.authz.model import Workload
from app.authz.rest.api_keys import ApiKeyRest
from app.authz.rules.api_keys import PREFIX, ApiKeySpec, digest_of
from app.authz.rules.credential_rules import ApiKeySource
from app.authz.rules.credentials import Proven, Rejected
from app.authz.service import api_keys
from app.authz.service.api_keys import PAGE_KEYS, REREAD_SECONDS, RETENTION, ApiKeys
from app.core.errors import InvalidInputError, NotFoundError, ResourceExhaustedError, UnavailableError
from app.main.routes import api_key_rows
from app.telemetry.metrics import Metrics
from tests.fakes.admin_api import admin_client
from tests.fakes.api_keys import MemoryApiKeys
from tests.fakes.clock import ManualClock
from tests.fakes.principals import OPERATOR

PARTNER = ApiKeySpec("partner-a")
SHOP = Workload("shop")
ANY = ApiKeySource()


@pytest.fixture
def store():
    return MemoryApiKeys()


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
async def replicas(store, clock):
    """Two replicas on one database."""
    both = [ApiKeys(store, clock, Metrics()) for _ in range(2)]
    for each in both:
        await each.refresh()
    return both


@pytest.fixture
def keys(replicas):
    return replicas[0]


@pytest.fixture
async def client(keys, tmp_path):
    async with admin_client(api_key_rows(ApiKeyRest(keys)), tmp_path / "admin.token") as client:
        yield client


def accepts(replica, text, workload=SHOP):
    return isinstance(replica.outcome(ANY, text, workload), Proven)


async def test_a_key_is_shown_once_and_stored_as_its_hash(keys, store):
    created = await keys.create(OPERATOR, PARTNER, None)
    assert created.text.startswith(PREFIX)
    assert accepts(keys, created.text)
    assert created.text not in repr(created)
    assert repr(digest_of(created.text)) not in repr(created.key)
    (stored,) = store.state.keys.values()
    assert stored.digest == digest_of(created.text)
    assert created.text != (await keys.create(OPERATOR, PARTNER, None)).text


async def test_what_is_changed_at_one_replica_is_known_at_another_after_its_refresh(replicas):
    one, two = replicas
    created = await one.create(OPERATOR, PARTNER, None)
    assert not accepts(two, created.text)
    await two.refresh()
    assert accepts(two, created.text)
    await two.revoke(OPERATOR, created.key.id)
    assert not accepts(two, created.text)
    await one.refresh()
    assert not accepts(one, created.text)
    assert one.outcome(ANY, created.text, SHOP).reason == f"the key {created.key.id} was revoked"


async def test_nothing_is_read_without_a_change_but_everything_each_minute(replicas, store, clock):
    one, two = replicas
    created = await one.create(OPERATOR, PARTNER, None)
    await two.refresh()
    reads = store.state.reads
    await two.refresh()
    assert store.state.reads == reads
    # As after a backup was restored: the key is gone, and the number of the last change is that of another history.
    store.state.keys.clear()
    await two.refresh()
    assert accepts(two, created.text)
    clock.advance(REREAD_SECONDS)
    await two.refresh()
    assert not accepts(two, created.text)


async def test_what_is_read_again_is_the_same_object_as_long_as_it_is_the_same(keys, clock):
    created = await keys.create(OPERATOR, PARTNER, None)
    before, known = keys.outcome(ANY, created.text, SHOP), keys.known()
    clock.advance(REREAD_SECONDS)
    await keys.refresh()
    assert keys.outcome(ANY, created.text, SHOP) is before
    assert keys.known() == known
    assert keys.known() is keys.known()


async def test_a_database_that_went_back_is_read_whole_at_once(replicas, store):
    one, two = replicas
    created = await one.create(OPERATOR, PARTNER, None)
    await two.refresh()
    store.state.keys.clear()
    store.state.number = 0
    await two.refresh()
    assert not accepts(two, created.text)


async def test_many_keys_are_read_in_pages(store, clock, keys):
    texts = [(await keys.create(OPERATOR, PARTNER, None)).text for _ in range(PAGE_KEYS + 1)]
    late = ApiKeys(store, clock, Metrics())
    await late.refresh()
    assert all(accepts(late, text) for text in texts)


async def test_a_database_that_is_away_leaves_what_is_known(replicas, store):
    created = await replicas[0].create(OPERATOR, PARTNER, None)
    store.away = True
    with pytest.raises(UnavailableError):
        await replicas[0].refresh()
    assert accepts(replicas[0], created.text)
    with pytest.raises(UnavailableError):
        await replicas[0].revoke(OPERATOR, created.key.id)
    unread = ApiKeys(store, ManualClock(), Metrics())
    assert isinstance(unread.outcome(ANY, created.text, SHOP), Rejected)
    with pytest.raises(UnavailableError):
        unread.known()


async def test_what_was_kept_decides_until_the_database_is_read(replicas, store, clock):
    created = await replicas[0].create(OPERATOR, PARTNER, None)
    kept = replicas[0].known()
    await replicas[0].revoke(OPERATOR, created.key.id)
    late = ApiKeys(store, clock, Metrics())
    late.restore(kept)
    assert accepts(late, created.text)
    await late.refresh()
    assert not accepts(late, created.text)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (ApiKeySpec(""), "subject"),
        (ApiKeySpec("a/b"), "subject"),
        (ApiKeySpec("*"), "subject"),
        (ApiKeySpec("a" * 254), "subject"),
        (ApiKeySpec("a\nb"), "subject"),
        (ApiKeySpec("a", "Shop"), "namespace"),
        (ApiKeySpec("a", labels=(("a b", "c"),)), "labels"),
        (ApiKeySpec("a", labels=(("a", "/"),)), "labels"),
    ],
)
async def test_what_no_key_may_be_made_for_is_refused(keys, spec, field):
    with pytest.raises(InvalidInputError) as refused:
        await keys.create(OPERATOR, spec, None)
    assert [each.path for each in refused.value.violations] == [field]


async def test_a_lifetime_has_bounds_and_so_has_the_number_of_keys(keys, monkeypatch):
    for lasts in (timedelta(0), timedelta(days=3651)):
        with pytest.raises(InvalidInputError):
            await keys.create(OPERATOR, PARTNER, lasts)
    monkeypatch.setattr(api_keys, "MAX_API_KEYS", 1)
    await keys.create(OPERATOR, PARTNER, None)
    with pytest.raises(ResourceExhaustedError):
        await keys.create(OPERATOR, PARTNER, None)


async def test_ended_keys_are_removed_after_a_week(keys, store, clock):
    await keys.create(OPERATOR, PARTNER, timedelta(seconds=1))
    revoked = await keys.create(OPERATOR, PARTNER, None)
    await keys.revoke(OPERATOR, revoked.key.id)
    await keys.create(OPERATOR, PARTNER, None)
    clock.advance(RETENTION.total_seconds() + 2)
    await keys.maintain()
    assert len(store.state.keys) == 1


async def test_a_change_is_recorded_without_the_key_and_its_hash(keys, store):
    created = await keys.create(OPERATOR, ApiKeySpec("partner-a", "shop", (("tier", "gold"),)), None)
    await keys.revoke(OPERATOR, created.key.id)
    with pytest.raises(NotFoundError):
        await keys.revoke(OPERATOR, created.key.id)
    made, revoked = store.state.audited
    assert (made.action, made.target, made.principal) == ("api_key.create", created.key.id, OPERATOR.name)
    assert made.after["subject"] == "partner-a"
    assert made.after["labels"] == [["tier", "gold"]]
    assert (revoked.action, revoked.target) == ("api_key.revoke", created.key.id)
    for record in (made, revoked):
        assert created.text not in repr(record)
        assert "digest" not in record.after


async def test_keys_over_the_admin_api(client, keys):
    made = await client.post("/v1/api-keys", json={"subject": "partner-a", "labels": {"b": "c"}, "ttl_seconds": 60})
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    body = made.json()
    assert accepts(keys, body["key"])
    one = made.headers["location"]
    assert one == f"/v1/api-keys/{body['id']}"
    shown = (await client.get(one)).json()
    assert shown == {name: value for name, value in body.items() if name != "key"}
    assert (shown["labels"], shown["expires_at"]) == ({"b": "c"}, "2026-01-01T12:01:00Z")
    assert (await client.get("/v1/api-keys")).json()["items"] == [shown]
    assert (await client.delete(one)).status_code == 204
    assert not accepts(keys, body["key"])
    assert (await client.get(one)).json()["revoked_at"] == "2026-01-01T12:00:00Z"
    assert (await client.delete(one)).status_code == 404
    for strange in ("none", "%00", "a" * 32, body["id"].upper()):
        assert (await client.get(f"/v1/api-keys/{strange}")).status_code == 404


@pytest.mark.parametrize(
    "body", [{}, {"subject": "a/b"}, {"subject": "a", "key": "mine"}, {"subject": "a", "labels": []}]
)
async def test_a_bad_request_is_refused(client, body):
    assert (await client.post("/v1/api-keys", json=body)).status_code in {400, 422}


async def test_every_endpoint_asks_for_the_token(keys, tmp_path):
    async with admin_client(api_key_rows(ApiKeyRest(keys)), tmp_path / "admin.token", token=None) as stranger:
        for method, path in (("POST", ""), ("GET", ""), ("GET", "/a"), ("DELETE", "/a")):
            assert (await stranger.request(method, f"/v1/api-keys{path}", json={"subject": "a"})).status_code == 401
