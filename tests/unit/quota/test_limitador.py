"""Limits in limitador's schema: how they are read, which apply, how they are counted, and the HTTP API."""

import json

import pytest
from envoy.service.ratelimit.v3 import rls_pb2
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import InvalidInputError, NotFoundError
from app.documents.parser import parse_documents
from app.documents.sources import DirectorySource
from app.quota.backends.memory import MemoryCounters
from app.quota.model import Code, Descriptor, Modes
from app.quota.rpc.limitador import LimitadorHttp
from app.quota.rpc.ratelimit import RateLimitRpc
from app.quota.rules.callers import CallerGrant
from app.quota.rules.limitador import LIMIT_KIND, ConditionalLimit, compile_limit, index_limits, match_limits
from app.quota.service.counters import CounterService
from app.spiffe.principal import ANONYMOUS
from app.telemetry.metrics import Metrics
from tests.fakes.clock import ManualClock
from tests.fakes.context import call_context
from tests.fakes.documents import MemoryDocuments
from tests.fakes.quota import AwayCounters, FetchedCounters, Quota, respond, settled

LIMITS = """
- namespace: shop
  max_value: 2
  seconds: 60
  name: per-user
  conditions: ["descriptors[0]['req.method'] == 'POST'"]
  variables: ["descriptors[0].user"]
- namespace: shop
  max_value: 3
  seconds: 90
  conditions: []
  variables: []
- {namespace: other, max_value: 1, seconds: 1}
"""
ANN = {"req.method": "POST", "user": "ann"}


def read(text):
    return LIMIT_KIND.parse(parse_documents(text.encode()))


def violations(text):
    with pytest.raises(InvalidInputError) as caught:
        read(text)
    return {violation.path: violation.problem for violation in caught.value.violations}


def test_a_limit_file_is_read():
    assert read(LIMITS) == (
        ConditionalLimit(
            "shop", 2, 60, "per-user", ("descriptors[0]['req.method'] == 'POST'",), ("descriptors[0].user",)
        ),
        ConditionalLimit("shop", 3, 90),
        ConditionalLimit("other", 1, 1),
    )


@pytest.mark.parametrize(
    ("fields", "path", "problem"),
    [
        ("max_value: 1, seconds: 1", "namespace", "is required"),
        ("namespace: ' a', max_value: 1, seconds: 1", "namespace", "printable"),
        ("namespace: a, seconds: 1", "max_value", "is required"),
        ("namespace: a, max_value: -1, seconds: 1", "max_value", "from 0"),
        ("namespace: a, max_value: 1, seconds: 0", "seconds", "from 1"),
        ("namespace: a, max_value: 1, seconds: 1.5", "seconds", "from 1"),
        ("namespace: a, max_value: 1, seconds: 1, conditions: x", "conditions", "must be a list"),
        ("namespace: a, max_value: 1, seconds: 1, conditions: [1]", "conditions[0]", "must be a string"),
        ("namespace: a, max_value: 1, seconds: 1, conditions: ['a ==']", "conditions[0]", "variable"),
        ("namespace: a, max_value: 1, seconds: 1, variables: ['1 +']", "variables[0]", "the end"),
        ("namespace: a, max_value: 1, seconds: 1, name: 'é'", "name", "printable ASCII"),
        ("namespace: a, max_value: 1, seconds: 1, policy: x", "policy", "is not a field here"),
    ],
)
def test_a_wrong_limit_is_refused_with_its_path(fields, path, problem):
    assert problem in violations(f"{{{fields}}}")[path]


def test_the_same_limit_twice_is_refused():
    one = "- {namespace: a, max_value: %d, seconds: 1, variables: ['descriptors[0].x', 'descriptors[0].y']}\n"
    other = "- {namespace: a, max_value: 5, seconds: 1, variables: ['descriptors[0].y', 'descriptors[0].x']}\n"
    assert "earlier document" in str(violations(one % 1 + other))


KEYS = st.sampled_from("ab")
VALUES = st.sampled_from(["x", "y", ""])
COMPARED = st.builds(
    "descriptors[{}].{} {} '{}'".format, st.integers(0, 2), KEYS, st.sampled_from(["==", "!="]), VALUES
)
CONDITIONS = st.lists(COMPARED | st.builds("{} || {}".format, COMPARED, COMPARED), max_size=3)
VARIABLES = st.lists(st.builds("descriptors[{}].{}".format, st.integers(0, 1), KEYS), max_size=2)


def holds(condition, descriptors):
    """What a condition of the strategy comes to, None if it has no value."""
    results = []
    for part in condition.split(" || "):
        place, key = int(part[12]), part[15]
        _, _, rest = part.partition(" ")
        operator, text = rest[:2], rest[4:-1]
        value = descriptors[place].get(key) if place < len(descriptors) else None
        results.append(None if value is None else (value == text) is (operator == "=="))
    return True if True in results else None if None in results else False


@given(
    st.lists(st.tuples(CONDITIONS, VARIABLES), max_size=6),
    st.lists(st.dictionaries(KEYS, VALUES), min_size=1, max_size=3),
)
def test_the_index_finds_the_limits_whose_conditions_hold(limits, bindings):
    made = {
        limit.limit_id: limit
        for number, (conditions, variables) in enumerate(limits)
        for limit in [ConditionalLimit("n", number, 60, "", tuple(conditions), tuple(variables))]
    }
    index = index_limits({LIMIT_KIND.key_of(each): compile_limit(each) for each in made.values()}).namespaces
    descriptors = [Descriptor(tuple(each.items())) for each in bindings]
    found = {hit.limit_id for hit in match_limits("n", index["n"], descriptors, 1, 9).hits} if index else set()
    expected = {
        limit_id
        for limit_id, each in made.items()
        if all(holds(condition, bindings) for condition in each.conditions)
        and all(
            int(variable[12]) < len(bindings) and variable[15] in bindings[int(variable[12])]
            for variable in each.variables
        )
    }
    assert found == expected


def test_a_request_asks_the_limits_that_its_values_are_about_alone():
    limits = [ConditionalLimit("n", 1, 60, "", (f"descriptors[0].path == '/{number}'",)) for number in range(10_000)]
    index = index_limits({LIMIT_KIND.key_of(each): compile_limit(each) for each in limits}).namespaces["n"]
    assert len(list(index.candidates([{"path": "/7"}]))) == 1


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "limits.yaml").write_text(LIMITS)
    return tmp_path


@pytest.fixture(params=[False, True], ids=["known", "fetched"])
async def service(request, directory, clock):
    counters = MemoryCounters(clock)
    return await loaded(directory, clock, FetchedCounters(counters) if request.param else counters)


async def loaded(directory, clock, counters=None, **options):
    service = Quota(clock=clock, counters=counters, limits=DirectorySource(LIMIT_KIND, directory, clock), **options)
    await service.documents.refresh()
    assert service.limits is not None
    await service.limits.refresh()
    return service


async def ask(service, values, hits=1):
    return await settled(service.ask("shop", [Descriptor(tuple(values.items()))], hits))


async def test_every_limit_that_applies_is_counted_or_none(service):
    first, second, refused = [await ask(service, ANN) for _ in range(3)]
    assert [status.remaining for status in first.statuses] == [1, 2]
    assert (second.code, refused.code) == (Code.OK, Code.OVER_LIMIT)
    assert [status.code for status in refused.statuses] == [Code.OVER_LIMIT, Code.OK]
    # What was refused was not counted under the other limit either: one of its three is left.
    assert (await ask(service, {"user": "bob"})).code is Code.OK
    assert (await ask(service, {"user": "bob"})).code is Code.OVER_LIMIT


async def test_hits_fit_as_a_whole_or_are_refused(service):
    assert (await ask(service, {}, 4)).code is Code.OVER_LIMIT
    assert (await ask(service, {}, 3)).code is Code.OK
    assert (await ask(service, {}, 1)).code is Code.OVER_LIMIT


async def test_more_hits_than_a_request_may_have_are_refused(directory, clock):
    service = await loaded(directory, clock, max_hits=2)
    assert [(await ask(service, {}, hits)).code for hits in (3, 2)] == [Code.OVER_LIMIT, Code.OK]


async def test_a_window_may_have_any_length(service, clock):
    assert (await ask(service, {}, 3)).code is Code.OK
    clock.advance(90)
    assert (await ask(service, {}, 3)).code is Code.OK


COSTLY = [
    # The first reaches the bound of steps, the second that of a text; each in a condition and in a variable.
    "conditions: [\"descriptors.all(a, 'abcdefgh'.split('').all(c, descriptors[0].path.contains(c)))\"]",
    "conditions: [\"descriptors[0].path + descriptors[0].path == ''\"]",
    'variables: ["descriptors[0].path + descriptors[0].path"]',
    "conditions: [\"descriptors[0].path + descriptors[0].path == '' || true\"]",
    "conditions: [\"!(descriptors[0].path + descriptors[0].path == '' && false)\"]",
]


@pytest.mark.parametrize("expressions", COSTLY)
async def test_a_limit_refuses_what_is_too_costly_to_compare(directory, clock, expressions):
    (directory / "limits.yaml").write_text(f"""
- {{namespace: shop, max_value: 5, seconds: 60, name: costly, {expressions}}}
- {{namespace: shop, max_value: 2, seconds: 60}}
""")
    metrics = Metrics()
    service = await loaded(directory, clock, metrics=metrics)
    rpc = RateLimitRpc(service, metrics)
    entry = {"key": "path", "value": "abcdefgh" * 10_000}
    message = rls_pb2.RateLimitRequest(domain="shop", descriptors=[{"entries": [entry]}])
    assert [respond(rpc, message, call_context()).overall_code for _ in range(3)] == [
        rls_pb2.RateLimitResponse.OVER_LIMIT
    ] * 3
    assert metrics.limits.value("shop", "condition_too_costly") == 3
    assert metrics.rules.series["shop.costly"].over == 3
    http = Http(service)
    assert [await http.post(path, {"path": entry["value"]}) for path in ("/check", "/check_and_report")] == [429, 429]
    # Nothing of this was counted under the other limit.
    assert [(await ask(service, {}, 2)).code, (await ask(service, {}, 1)).code] == [Code.OK, Code.OVER_LIMIT]


async def test_a_report_of_what_is_too_costly_to_compare_counts_under_the_other_limits(service, directory):
    (directory / "limits.yaml").write_text(f"""
- {{namespace: shop, max_value: 5, seconds: 60, {COSTLY[2]}}}
- {{namespace: shop, max_value: 2, seconds: 60}}
""")
    await service.limits.refresh()
    http = Http(service)
    assert await http.post("/report", {"path": "abcdefgh" * 10_000}) == 200
    assert [shown["remaining"] for shown in (await http.ask("GET", "/counters/shop"))[1]] == [1]


async def test_what_is_near_to_a_limit_is_counted_by_the_ratio_of_the_settings(directory, clock):
    (directory / "limits.yaml").write_text("{namespace: shop, max_value: 10, seconds: 60, name: all}")
    metrics = Metrics()
    service = await loaded(directory, clock, metrics=metrics, modes=Modes(near_ratio=0.5))
    for _ in range(8):
        await ask(service, {})
    assert metrics.rules.series["shop.all"].near == 3


async def test_a_domain_with_a_configuration_is_not_asked_by_limits(service):
    await service.put("shop", {"domain": "shop"})
    assert (await ask(service, ANN, 100)).code is Code.OK


async def test_conditions_and_variables_in_the_form_of_limitador_1_are_of_the_first_descriptor(directory, clock):
    (directory / "limits.yaml").write_text(
        """
- namespace: shop
  max_value: 1
  seconds: 60
  conditions: ["req.method == 'GET'", 'req.path != "/json"']
  variables: [user-id]
"""
    )
    service = await loaded(directory, clock)

    def applied(*descriptors):
        matched = service.match("shop", [Descriptor(tuple(each.items())) for each in descriptors], 1)
        return [hit.key for hit in matched.hits]

    given = {"req.method": "GET", "req.path": "/", "user-id": "ann"}
    assert applied(given) == [("ann",)]
    assert applied(given | {"req.method": "PUT"}) == applied(given | {"req.path": "/json"}) == applied({}, given) == []
    assert [applied({key: value for key, value in given.items() if key != left_out}) for left_out in given] == [[]] * 3
    assert (await Http(service).ask("GET", "/limits/shop"))[1][0]["variables"] == ["user-id"]


@pytest.mark.parametrize("text", ["req.method = 'GET'", "method == GET", "method == 'GET' || true", "a b", "-a"])
def test_what_is_in_neither_form_is_refused(text):
    assert violations(f"{{namespace: n, max_value: 1, seconds: 1, conditions: [{json.dumps(text)}]}}")


async def test_limits_are_explained_with_what_is_left_of_them(service):
    await ask(service, ANN)
    found = await service.explain("shop", [Descriptor(tuple(ANN.items()))])
    assert [(each.rule, each.counter, status.remaining) for each, status in found] == [
        ("shop.per-user", ("ann",), 1),
        (found[1][0].rule, (), 2),
    ]
    ((explanation, status),) = await service.explain("other", [Descriptor(())])
    assert (explanation.reason, status.remaining) == ("its conditions hold, and its variables have values", 1)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"req.method": "GET", "user": "ann"}, "descriptors[0]['req.method'] == 'POST' is not true"),
        ({"user": "ann"}, "descriptors[0]['req.method'] == 'POST' has no value: a key or an element is missing"),
        ({"req.method": "POST"}, "descriptors[0].user has no value: a key or an element is missing: 'user'"),
    ],
)
async def test_it_is_explained_why_a_limit_does_not_apply(service, values, reason):
    ((explanation, _),) = await service.explain("shop", [Descriptor(tuple(values.items()))])
    ((miss,),) = (step.misses for step in explanation.steps)
    assert (miss.descriptor, miss.reason.startswith(reason)) == ("shop.per-user", True), miss


async def test_it_is_explained_that_no_limit_applies_and_which_are_too_costly(directory, clock):
    (directory / "limits.yaml").write_text(f"{{namespace: shop, max_value: 5, seconds: 60, {COSTLY[1]}}}")
    service = await loaded(directory, clock)
    ((explanation, status),) = await service.explain("shop", [Descriptor(())])
    assert (explanation.limit, explanation.reason, status.code) == (None, "no limit of the namespace applies", Code.OK)
    ((explanation, status),) = await service.explain("shop", [Descriptor((("path", "x" * 40_000),))])
    assert ("too costly" in explanation.reason, status.code) == (True, Code.OVER_LIMIT)
    with pytest.raises(NotFoundError, match="every request passes"):
        await service.explain("unknown", [Descriptor(())])


async def test_a_changed_limit_is_seen_by_a_request_that_is_known(directory, clock):
    service = await loaded(directory, clock)
    rpc = RateLimitRpc(service, Metrics())
    message = rls_pb2.RateLimitRequest(domain="shop", descriptors=[{"entries": [{"key": "user", "value": "x"}]}])
    for _ in range(2):
        assert len(respond(rpc, message, call_context()).statuses) == 1
    (directory / "limits.yaml").write_text("{namespace: other, max_value: 1, seconds: 1}")
    await service.limits.refresh()
    assert not respond(rpc, message, call_context()).statuses[0].HasField("current_limit")


class Http:
    def __init__(self, service):
        audit = MemoryDocuments().change
        self._app = LimitadorHttp(service, CounterService(service, service.store, audit, ManualClock()))

    async def ask(self, method, path, body=None):
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = []

        async def receive():
            return {"type": "http.request", "body": text}

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": method, "path": path, "state": {"meshward.principal": ANONYMOUS}}
        await self._app(scope, receive, send)
        return sent[0]["status"], json.loads(sent[1]["body"]), dict(sent[0]["headers"])

    async def post(self, path, values, **fields):
        return (await self.ask("POST", path, {"namespace": "shop", "values": values, **fields}))[0]


async def test_check_counts_nothing_and_report_counts_whatever_the_limit(service):
    http = Http(service)
    assert [await http.post("/check", ANN, delta=2) for _ in range(3)] == [200] * 3
    assert await http.post("/check", ANN, delta=3) == 429
    assert [await http.post("/report", ANN) for _ in range(4)] == [200] * 4
    assert await http.post("/check", ANN) == 429


async def test_check_and_report_counts_what_it_admits(service):
    http = Http(service)
    assert [await http.post("/check_and_report", ANN) for _ in range(3)] == [200, 200, 429]
    assert await http.post("/check_and_report", {"user": "bob"}) == 200
    body = {"namespace": "shop", "values": {"user": "x"}, "response_headers": "draftVersion03"}
    status, _, headers = await http.ask("POST", "/check_and_report", body)
    assert (status, headers[b"x-ratelimit-limit"], headers[b"x-ratelimit-remaining"]) == (429, b"3, 3;w=90", b"0")


async def test_limits_are_shown_and_status_is_ok(service):
    http = Http(service)
    status, shown, _ = await http.ask("GET", "/limits/other")
    assert (status, shown) == (
        200,
        [
            {
                "id": None,
                "namespace": "other",
                "max_value": 1,
                "seconds": 1,
                "name": None,
                "conditions": [],
                "variables": [],
            }
        ],
    )
    assert (await http.ask("GET", "/limits/none"))[1] == []
    assert (await http.ask("GET", "/status"))[0] == 200
    assert (await http.ask("POST", "/check", {"namespace": "none", "values": {}}))[0] == 200


async def test_counters_are_shown_as_limitador_shows_them(service):
    http = Http(service)
    assert (await http.ask("GET", "/counters/shop"))[:2] == (200, [])
    await http.post("/report", ANN)
    await http.post("/report", {"user": "\ud800"}, delta=9)
    status, shown, _ = await http.ask("GET", "/counters/shop")
    limits = {limit["name"]: limit for limit in (await http.ask("GET", "/limits/shop"))[1]}
    assert status == 200
    assert sorted(shown, key=lambda counter: counter["remaining"]) == [
        {"limit": limits[None], "set_variables": {}, "remaining": 0, "expires_in_seconds": 90},
        {
            "limit": limits["per-user"],
            "set_variables": {"descriptors[0].user": "ann"},
            "remaining": 1,
            "expires_in_seconds": 60,
        },
    ]
    assert (await http.ask("GET", "/counters/none"))[:2] == (200, [])


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/check", b"{", 400),
        ("POST", "/check", b"[" * 100_000, 400),
        ("POST", "/check", [], 400),
        ("POST", "/check", {"values": {}}, 400),
        ("POST", "/check", {"namespace": "", "values": {}}, 400),
        ("POST", "/check", {"namespace": "shop", "values": {"a": 1}}, 400),
        ("POST", "/check", {"namespace": "shop", "values": {"a" * 1025: "b"}}, 400),
        ("POST", "/check", {"namespace": "shop", "delta": -1}, 400),
        ("POST", "/check", {"namespace": "shop", "delta": True}, 400),
        ("POST", "/check", {"namespace": "shop", "extra": 1}, 400),
        ("GET", "/check", {}, 404),
        ("POST", "/check/more", {}, 404),
        ("DELETE", "/limits/shop", {}, 404),
        ("DELETE", "/counters/shop", {}, 404),
        ("GET", "/counters", {}, 404),
    ],
)
async def test_what_is_no_request_is_refused(service, method, path, body, status):
    assert (await Http(service).ask(method, path, body))[0] == status


async def test_callers_and_faults_have_their_status(directory, clock):
    refusing = await loaded(directory, clock, callers=[CallerGrant("shop", "loopback")])
    assert await Http(refusing).post("/check", ANN) == 403
    assert (await Http(refusing).ask("GET", "/counters/shop"))[0] == 403
    away = await loaded(directory, clock, AwayCounters())
    assert await Http(away).post("/check_and_report", ANN) == 503
    assert (await Http(away).ask("GET", "/counters/shop"))[0] == 503


async def test_nothing_is_answered_before_the_limits_are_loaded(directory, clock):
    service = Quota(clock=clock, limits=DirectorySource(LIMIT_KIND, directory, clock))
    assert await Http(service).post("/check", ANN) == 409
