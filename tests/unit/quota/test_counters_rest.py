"""Counters in the admin API: what is listed, what starts again, and what of that is in the audit log."""

import httpx
import pytest
from fastapi import FastAPI
from structlog.testing import capture_logs

from app.core.errors import MeshwardError
from app.documents.sources import DirectorySource
from app.quota.backends.memory import MemoryCounters
from app.quota.model import Code, Descriptor, RateLimit, Unit
from app.quota.rest import COUNTERS_PATH, RESET_PATH, CounterRest
from app.quota.rules.limitador import LIMIT_KIND
from app.quota.service.counters import CounterService
from app.transport.rest.authentication import current_principal
from app.transport.rest.pages import encode_cursor
from app.transport.rest.problems import from_error
from tests.fakes.principals import OPERATOR
from tests.fakes.quota import AwayCounters, Quota

SHOP = """
domain: shop
descriptors:
- key: user
  rate_limit: {unit: day, requests_per_unit: 3}
  descriptors:
  - key: path
    value: /cart*
    share_threshold: true
    rate_limit: {unit: day, requests_per_unit: 5, algorithm: token_bucket}
- {key: total, rate_limit: {algorithm: total, requests_per_unit: 2}}
- {key: free, rate_limit: {unlimited: true}}
"""


class Counters:
    """The endpoints over a service, with what is counted in it and recorded."""

    def __init__(self, service, store, configs, clock):
        self.service, self.configs = service, configs
        rest = CounterRest(CounterService(service, store, configs.change, clock))
        app = FastAPI()
        app.dependency_overrides[current_principal] = lambda: OPERATOR
        app.add_exception_handler(MeshwardError, from_error)  # type: ignore[arg-type]  # handlers are typed by the root class
        app.add_api_route(COUNTERS_PATH, rest.list, methods=["GET"])
        app.add_api_route(RESET_PATH, rest.reset, methods=["POST"])
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://admin")

    def ask(self, *entries, hits=1, override=None, domain="shop"):
        return self.service.ask(domain, [Descriptor(entries, hits, override)], 0)

    async def list(self, status=200, **parameters):
        answer = await self.client.get(COUNTERS_PATH, params={"domain": "shop", **parameters})
        assert answer.status_code == status, answer.text
        return answer.json()

    async def items(self, **parameters):
        return (await self.list(**parameters))["items"]

    async def reset(self, status=200, **fields):
        answer = await self.client.post(RESET_PATH, json={"domain": "shop", **fields})
        assert answer.status_code == status, answer.text
        return answer.json().get("counters")

    @property
    def audited(self):
        records = [record for record in self.configs.records if record.action == "counter.reset"]
        assert {(record.principal, record.request_id) for record in records} <= {("admin_token", "request-1")}
        return [(record.target, dict(record.before), record.after) for record in records]


@pytest.fixture
async def counters(configs, clock):
    store = MemoryCounters(clock)
    service = Quota(configs, store, clock)
    await service.documents.refresh()
    await service.put("shop", SHOP.encode())
    return Counters(service, store, configs, clock)


def fields(items, *names):
    return sorted(tuple(item[name] for name in names) for item in items)


async def test_counters_are_listed_with_their_limit_and_what_is_left(counters):
    counters.ask(("user", "ann"), hits=2)
    counters.ask(("user", "bob"), hits=7)
    counters.ask(("user", "bob"), ("path", "/cart/1"), hits=2)
    counters.ask(("total", "x"))
    counters.ask(("free", "x"))
    items = await counters.items()
    assert fields(items, "rule", "used", "remaining") == [
        ("shop.total", 1, 1),
        ("shop.user", 2, 1),
        ("shop.user", 7, 0),
        ("shop.user.path_/cart*", 2, 3),
    ]
    (shared,) = await counters.items(rule="shop.user.path_/cart*")
    assert shared["entries"] == [{"key": "user", "value": "bob"}, {"key": "path", "value": "/cart*"}]
    assert shared["limit"].startswith("unit=DAY requests_per_unit=5")
    assert {item["resets_in_seconds"] for item in items if item["rule"] == "shop.user"} == {12 * 3600}
    assert [item["resets_in_seconds"] for item in items if item["rule"] == "shop.total"] == [None]


async def test_counters_are_listed_in_pages(counters):
    for number in range(7):
        counters.ask(("user", f"{number}"))
    seen, cursor = [], None
    while True:
        page = await counters.list(limit=3, **({"cursor": cursor} if cursor else {}))
        assert len(page["items"]) <= 3
        seen += [item["entries"][0]["value"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [f"{number}" for number in range(7)]


async def test_a_counter_is_reset_by_its_id(counters):
    for name in ("ann", "bob"):
        counters.ask(("user", name), hits=4)
    ids = {item["entries"][0]["value"]: item["id"] for item in await counters.items()}
    with capture_logs() as lines:
        assert await counters.reset(id=ids["ann"]) == 1
    assert counters.ask(("user", "ann"), hits=3).code is Code.OK
    assert counters.ask(("user", "bob")).code is Code.OVER_LIMIT
    entries = [{"key": "user", "value": "ann"}]
    assert counters.audited == [("shop.user", {"entries": entries, "used": 4}, None)]
    assert [(line["event"], line["principal"], line["rule"]) for line in lines] == [
        ("counters_reset", "admin_token", "shop.user")
    ]


async def test_a_counter_is_reset_by_the_descriptor_of_a_request(counters):
    counters.ask(("user", "bob"), ("path", "/cart/1"), hits=5)
    assert counters.ask(("user", "bob"), ("path", "/cart/2")).code is Code.OVER_LIMIT
    entries = [{"key": "user", "value": "bob"}, {"key": "path", "value": "/cart/9"}]
    assert await counters.reset(entries=entries) == 1
    assert counters.ask(("user", "bob"), ("path", "/cart/2")).code is Code.OK


async def test_every_counter_of_a_limit_is_reset(counters):
    for name in ("ann", "bob"):
        counters.ask(("user", name), hits=4)
    counters.ask(("total", "x"), hits=2)
    assert await counters.reset(rule="shop.user") == 2
    assert await counters.reset(rule="shop.user") == 0
    assert fields(await counters.items(), "rule", "used") == [("shop.total", 2)]
    assert counters.audited == [("shop.user", {"entries": "all"}, None)] * 2


async def test_a_limit_that_requests_bring_is_listed_and_reset_by_its_id(counters):
    brought = RateLimit(Unit.DAY, 1)
    assert counters.ask(("region", "eu"), override=brought).code is Code.OK
    (item,) = await counters.items()
    assert (item["entries"], item["used"], item["remaining"], item["limit"]) == (
        [{"key": "region", "value": "eu"}],
        1,
        None,
        None,
    )
    await counters.reset(id=item["id"])
    assert counters.ask(("region", "eu"), override=brought).code is Code.OK


async def test_what_a_client_wrote_is_shown_and_reset_whatever_it_is(counters):
    values = ["x" * 100_000, "\ud800", "\x1b[31m", "💶", ""]
    for value in values:
        counters.ask(("user", value), hits=4)
    items = await counters.items()
    assert [item["entries"] for item in items].count(None) == 1
    shown = {item["entries"][0]["value"] for item in items if item["entries"]}
    assert shown == {"?", "\x1b[31m", "💶", ""}
    for item in items:
        assert await counters.reset(id=item["id"]) == 1
    assert [counters.ask(("user", value), hits=3).code for value in values] == [Code.OK] * len(values)


async def test_a_value_that_is_too_long_for_the_audit_log_is_left_out_of_it(counters):
    counters.ask(("user", "x" * 100_000))
    await counters.reset(entries=[{"key": "user", "value": "x" * 100_000}])
    assert counters.audited == [("shop.user", {"entries": None, "used": 1}, None)]


async def test_limits_in_limitadors_schema_have_counters_too(tmp_path, configs, clock):
    (tmp_path / "limits.yaml").write_text(
        "{namespace: cart, name: per-user, max_value: 2, seconds: 60, variables: ['descriptors[0].user']}"
    )
    store = MemoryCounters(clock)
    service = Quota(configs, store, clock, limits=DirectorySource(LIMIT_KIND, tmp_path, clock))
    await service.documents.refresh()
    await service.limits.refresh()
    counters = Counters(service, store, configs, clock)
    counters.ask(("user", "ann"), hits=2, domain="cart")
    (item,) = await counters.items(domain="cart")
    assert (item["rule"], item["entries"]) == ("cart.per-user", [{"key": "descriptors[0].user", "value": "ann"}])
    assert await counters.reset(domain="cart", entries=[{"key": "user", "value": "ann"}]) == 1
    assert counters.ask(("user", "ann"), hits=2, domain="cart").code is Code.OK


async def test_what_is_not_there_is_404_and_leaves_no_record(counters):
    await counters.list(404, domain="unknown")
    await counters.list(404, rule="shop.unknown")
    await counters.reset(404, domain="unknown", rule="shop.user")
    await counters.reset(404, rule="shop.unknown")
    await counters.reset(404, entries=[{"key": "user", "value": "ann"}])
    await counters.reset(404, entries=[{"key": "unknown", "value": "ann"}])
    await counters.reset(404, id=encode_cursor('["limit", ["ann"]]'))
    assert counters.audited == []


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 422),
        ({"rule": "shop.user", "id": "x"}, 422),
        ({"rule": "shop.user", "all": True}, 422),
        ({"entries": []}, 422),
        ({"entries": [{"key": "k"}] * 101}, 422),
        ({"id": "x" * 5000}, 422),
        ({"id": "no id"}, 400),
        ({"id": encode_cursor("[1, 2]")}, 400),
        ({"id": encode_cursor("[" * 1000)}, 400),
    ],
)
async def test_what_names_no_counter_is_refused(counters, fields, status):
    await counters.reset(status, **fields)


async def test_a_cursor_that_was_not_made_here_is_400(counters):
    counters.ask(("user", "ann"))
    for cursor in ("x", encode_cursor("x"), encode_cursor('["a"]')):
        await counters.list(400, cursor=cursor)


async def test_nothing_is_reset_that_cannot_be_recorded(counters, configs):
    counters.ask(("user", "ann"), hits=3)
    configs.away = True
    await counters.reset(503, entries=[{"key": "user", "value": "ann"}])
    await counters.reset(503, rule="shop.user")
    assert counters.ask(("user", "ann")).code is Code.OVER_LIMIT


async def test_counters_that_are_away_are_503(configs, clock, counters):
    away = Counters(counters.service, AwayCounters(), configs, clock)
    await away.list(503)
    await away.reset(503, entries=[{"key": "user", "value": "ann"}])
    assert away.audited == []
