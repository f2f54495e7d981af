"""Requests that want something other than an answer."""

import pytest
from envoy.service.ratelimit.v3 import rls_pb2

from app.core.errors import InvalidInputError
from app.quota.backends.memory import MAX_CELLS, MAX_PLAIN_BYTES, MemoryCounters
from app.quota.model import MAX_DESCRIPTORS, MAX_ENTRIES, MAX_KEY_LENGTH, MAX_VALUE_LENGTH
from app.quota.rpc.headers import HeaderFamily, HeaderOptions
from app.quota.rpc.messages import MAX_PLAIN_REQUEST
from app.quota.rpc.ratelimit import MAX_KNOWN_DESCRIPTORS, MAX_KNOWN_REQUESTS, RateLimitRpc
from app.telemetry.families import MAX_SERIES
from tests.fakes.context import call_context
from tests.fakes.quota import Quota, respond

CONTEXT = call_context()
DOCUMENT = {
    "domain": "edge",
    "descriptors": [
        {"key": "path", "rate_limit": {"unit": "day", "requests_per_unit": 1}},
        {"key": "p", "value": "*a*a*a*a*a*a*a*b", "rate_limit": {"unit": "day", "requests_per_unit": 1}},
    ],
}
OK, OVER = rls_pb2.RateLimitResponse.OK, rls_pb2.RateLimitResponse.OVER_LIMIT


@pytest.fixture
def counters(clock):
    return MemoryCounters(clock, max_per_limit=100)


@pytest.fixture
async def rpc(clock, metrics, counters):
    service = Quota(counters=counters, clock=clock, metrics=metrics)
    await service.put("edge", DOCUMENT)
    return RateLimitRpc(service, metrics, HeaderOptions(tuple(HeaderFamily)))


def ask(rpc, message):
    return respond(rpc, message, CONTEXT)


def request(*entries, descriptors=1, domain="edge"):
    message = rls_pb2.RateLimitRequest(domain=domain)
    for _ in range(descriptors):
        descriptor = message.descriptors.add()
        for key, value in entries:
            descriptor.entries.add(key=key, value=value)
    return message


@pytest.mark.parametrize(
    ("message", "path"),
    [
        (request(("path", "/"), descriptors=MAX_DESCRIPTORS + 1), "descriptors"),
        (request(*[("path", "/")] * (MAX_ENTRIES + 1)), "descriptors[0].entries"),
        (request(("k" * (MAX_KEY_LENGTH + 1), "v")), "descriptors[0].entries[0].key"),
        (request(("path", "v" * (MAX_VALUE_LENGTH + 1))), "descriptors[0].entries[0].value"),
    ],
)
async def test_a_request_beyond_a_bound_is_refused_with_the_path(rpc, counters, message, path):
    with pytest.raises(InvalidInputError) as caught:
        ask(rpc, message)
    assert [violation.path for violation in caught.value.violations] == [path]
    assert counters.held == 0


async def test_ten_thousand_descriptors_are_refused_without_work_on_each(rpc, counters):
    with pytest.raises(InvalidInputError) as caught:
        ask(rpc, request(("path", "/"), ("k" * (MAX_KEY_LENGTH + 1), ""), descriptors=10_000))
    assert [violation.path for violation in caught.value.violations] == ["descriptors"]
    assert counters.held == 0


@pytest.mark.parametrize("entries", [[], [("", "")], [("", "v"), ("path", "/")]])
async def test_an_empty_descriptor_or_key_matches_nothing(rpc, counters, entries):
    answer = ask(rpc, request(*entries))
    assert answer.overall_code == OK
    assert not answer.statuses[0].HasField("current_limit")
    assert counters.held == 0


async def test_one_bad_descriptor_leaves_the_others_uncounted(rpc, counters):
    message = request(("path", "/"))
    message.descriptors.add().entries.add(key="k" * (MAX_KEY_LENGTH + 1))
    with pytest.raises(InvalidInputError):
        ask(rpc, message)
    assert counters.held == 0


async def test_a_long_value_is_limited_as_any_other(rpc):
    """A refusal could be let through by a sidecar that fails open, so it must not be to be had by a long path."""
    path = "/" + "x" * 60_000
    answers = [ask(rpc, request(("path", path))) for _ in range(2)]
    assert [answer.overall_code for answer in answers] == [OK, OVER]
    other = ask(rpc, request(("path", path + "x")))
    assert other.overall_code == OK


async def test_a_flood_of_values_claims_bounded_memory_and_no_quota(rpc, counters):
    ask(rpc, request(("path", "mine")))
    flood = [request(("path", f"{number}" * 2000)) for number in range(300)]
    assert [ask(rpc, each).overall_code for each in flood] == [OK] * 300
    assert [ask(rpc, each).overall_code for each in flood] == [OVER] * 300
    assert counters.held == 100
    assert counters._cells <= MAX_CELLS
    held = [key for room in counters._rooms.values() for key in room.states]
    assert max(len(key) if isinstance(key, bytes) else sum(map(len, key)) for key in held) <= MAX_PLAIN_BYTES
    again = ask(rpc, request(("path", "mine")))
    assert again.overall_code == OVER


async def test_a_flood_of_requests_is_not_remembered_beyond_a_bound(rpc):
    for number in range(MAX_KNOWN_REQUESTS + 100):
        for size in (1, MAX_PLAIN_REQUEST):
            for _ in range(2):
                ask(rpc, request(("path", f"{number}" + "x" * size)))
    for known, bound in ((rpc._known, MAX_KNOWN_REQUESTS), (rpc._descriptors, MAX_KNOWN_DESCRIPTORS)):
        assert 0 < len(known._values) <= bound
    assert max(map(len, rpc._known._values)) <= MAX_PLAIN_REQUEST
    assert max(len(descriptor) for _, descriptor in rpc._descriptors._values) <= MAX_PLAIN_REQUEST


async def test_a_flood_of_domains_makes_no_series_and_no_counters(rpc, counters, metrics):
    for number in range(MAX_SERIES * 2):
        ask(rpc, request(("path", "/"), domain=f"d{number}"))
    assert counters.held == 0
    assert metrics.limits.value("other", "domain_not_found") == MAX_SERIES * 2
    assert metrics.render().count(b"\nmeshward_quota_decisions_total{") == 1


async def test_a_value_made_for_backtracking_is_matched_in_one_pass(rpc):
    answer = ask(rpc, request(("p", "a" * 1_000_000)))
    assert answer.overall_code == OK
    assert not answer.statuses[0].HasField("current_limit")


async def test_values_from_clients_never_reach_a_header(rpc):
    answer = ask(rpc, request(("path", "\r\nset-cookie: a=b")))
    for header in answer.response_headers_to_add:
        assert header.key.isascii()
        assert header.value.isprintable()
        assert "cookie" not in header.value


async def test_the_largest_numbers_are_counted_without_overflow(rpc):
    message = request(("path", "/"))
    message.hits_addend = 2**32 - 1
    message.descriptors[0].hits_addend.value = 2**64 - 1
    for _ in range(3):
        answer = ask(rpc, message)
        assert (answer.overall_code, answer.statuses[0].limit_remaining) == (OVER, 0)
