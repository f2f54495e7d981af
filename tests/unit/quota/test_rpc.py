"""The rate limit service at its edge: messages in, messages out, and the texts of envoyproxy/ratelimit."""

import pytest
from envoy.service.ratelimit.v3 import rls_pb2
from envoy.type.v3 import ratelimit_unit_pb2
from google.protobuf.json_format import MessageToDict

from app.core.errors import InvalidInputError, UnavailableError
from app.quota.backends.memory import MemoryCounters
from app.quota.model import Modes
from app.quota.rpc.headers import HeaderFamily, HeaderOptions
from app.quota.rpc.ratelimit import RateLimitRpc
from app.transport.grpc.status import Code, RpcError
from tests.fakes.context import call_context
from tests.fakes.quota import AwayCounters, BrokenCounters, FetchedCounters, Quota, settled

OK, OVER = rls_pb2.RateLimitResponse.OK, rls_pb2.RateLimitResponse.OVER_LIMIT
UNITS = rls_pb2.RateLimitResponse.RateLimit
CONTEXT = call_context()


def request(*descriptors, domain="edge", hits_addend=0):
    message = rls_pb2.RateLimitRequest(domain=domain, hits_addend=hits_addend)
    for entries in descriptors:
        descriptor = message.descriptors.add()
        for key, value in entries:
            descriptor.entries.add(key=key, value=value)
    return message


def document(**limits):
    return {"domain": "edge", "descriptors": [{"key": key, "rate_limit": limit} for key, limit in limits.items()]}


LIMITS = document(
    k={"unit": "minute", "requests_per_unit": 2, "name": "two"},
    w={"unit": "week", "requests_per_unit": 7},
    u={"unlimited": True},
)


async def ask(rpc, message):
    """Make the call, and return its answer as a client reads it."""
    answer = await settled(rpc.ShouldRateLimit(message.SerializeToString(), CONTEXT))
    return rls_pb2.RateLimitResponse.FromString(answer.SerializeToString())


@pytest.fixture(params=[MemoryCounters, lambda clock: FetchedCounters(MemoryCounters(clock))], ids=["known", "fetched"])
async def rpc(request, configs, clock, metrics):
    service = Quota(configs, request.param(clock), clock, metrics)
    await service.put("edge", LIMITS)
    return RateLimitRpc(service, metrics)


async def test_a_status_has_code_limit_remaining_and_reset(rpc):
    response = await ask(rpc, request([("k", "v")]))
    assert response == rls_pb2.RateLimitResponse(
        overall_code=OK,
        statuses=[
            {
                "code": OK,
                "current_limit": {"name": "two", "requests_per_unit": 2, "unit": UNITS.MINUTE},
                "limit_remaining": 1,
                "duration_until_reset": {"seconds": 60},
            }
        ],
    )


async def test_statuses_come_in_the_order_of_the_descriptors(rpc):
    for _ in range(3):
        response = await ask(rpc, request([("x", "")], [("k", "v")], [("w", "v")], [("u", "")]))
    assert response.overall_code == OVER
    assert [status.code for status in response.statuses] == [OK, OVER, OK, OK]
    assert [status.limit_remaining for status in response.statuses] == [0, 0, 4, 2**32 - 1]
    assert [status.HasField("current_limit") for status in response.statuses] == [False, True, True, False]
    assert response.statuses[2].current_limit.unit == UNITS.WEEK


async def test_a_request_that_is_sent_again_is_limited_by_the_active_configuration(service, metrics):
    rpc = RateLimitRpc(service, metrics)
    again = request([("k", "v")], [("x", "v")])
    await service.put("edge", LIMITS)
    assert [(await ask(rpc, again)).overall_code for _ in range(4)] == [OK, OK, OVER, OVER]
    await service.put("edge", document(k={"unit": "minute", "requests_per_unit": 5}))
    assert [(await ask(rpc, again)).overall_code for _ in range(2)] == [OK, OVER]
    await service.put("edge", document(x={"unit": "minute", "requests_per_unit": 0}))
    assert [status.code for status in (await ask(rpc, again)).statuses] == [OK, OVER]
    await service.delete("edge")
    assert (await ask(rpc, again)).overall_code == OK
    assert metrics.limits.value("other", "domain_not_found") == 1


async def test_requests_that_differ_only_in_hits_are_counted_by_their_own(rpc):
    remaining = []
    for hits in (1, 1, 1, 0, 2, 0):
        message = request([("w", "v")])
        message.descriptors[0].hits_addend.value = hits
        remaining.append((await ask(rpc, message)).statuses[0].limit_remaining)
    assert remaining == [6, 5, 4, 4, 2, 2]


async def test_hits_of_the_request_and_of_a_descriptor_are_counted(rpc):
    message = request([("k", "a")], [("w", "b")], hits_addend=2)
    message.descriptors[1].hits_addend.value = 0
    response = await ask(rpc, message)
    assert [status.limit_remaining for status in response.statuses] == [0, 7]


@pytest.mark.parametrize("unit", ["SECOND", "MINUTE", "HOUR", "DAY", "MONTH", "YEAR"])
async def test_an_override_is_answered_in_its_own_unit(rpc, unit):
    message = request([("k", "v")])
    message.descriptors[0].limit.unit = ratelimit_unit_pb2.RateLimitUnit.Value(unit)
    message.descriptors[0].limit.requests_per_unit = 9
    (status,) = (await ask(rpc, message)).statuses
    assert (status.current_limit.unit, status.current_limit.requests_per_unit) == (UNITS.Unit.Value(unit), 9)
    assert status.limit_remaining == 8


async def test_headers_are_sent_where_the_setting_is_on(service, metrics):
    await service.put("edge", LIMITS)
    rpc = RateLimitRpc(service, metrics, HeaderOptions((HeaderFamily.DRAFT03, HeaderFamily.IETF)))
    response = await ask(rpc, request([("k", "v")]))
    assert {header.key: header.value for header in response.response_headers_to_add} == {
        "x-ratelimit-limit": '2, 2;w=60;name="two"',
        "x-ratelimit-remaining": "1",
        "x-ratelimit-reset": "60",
        "ratelimit-policy": '"two";q=2;w=60',
        "ratelimit": '"two";r=1;t=60',
    }
    response = await ask(rpc, request([("u", "v")]))
    assert list(response.response_headers_to_add) == []


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (request([("k", "v")], domain=""), "rate limit domain must not be empty"),
        (request(), "rate limit descriptor list must not be empty"),
    ],
)
async def test_an_empty_request_is_refused_in_the_words_of_envoyproxy_ratelimit(rpc, metrics, message, text):
    with pytest.raises(RpcError) as caught:
        await ask(rpc, message)
    assert (caught.value.code, caught.value.message) == (Code.UNKNOWN, text)
    assert metrics.limits.value("other", "error") == 1


async def test_a_request_before_the_load_is_refused_as_unknown(service, metrics):
    with pytest.raises(RpcError) as caught:
        await ask(RateLimitRpc(service, metrics), request([("k", "v")]))
    assert (caught.value.code, caught.value.message) == (Code.UNKNOWN, "no rate limit configuration loaded")


async def test_dynamic_metadata_has_the_request_and_its_quota_mode_violations(configs, clock, metrics):
    service = Quota(configs, clock=clock, metrics=metrics)
    limits = document(k={"unit": "day", "requests_per_unit": 1}, w={"unit": "day", "requests_per_unit": 9})
    limits["descriptors"][0]["quota_mode"] = True
    await service.put("edge", limits)
    rpc = RateLimitRpc(service, metrics, dynamic_metadata=True)
    message = request([("w", "a"), ("x", "")], [("k", "é")], hits_addend=2)
    message.descriptors[0].hits_addend.value = 0
    message.descriptors[0].limit.requests_per_unit = 5
    message.descriptors[0].limit.unit = ratelimit_unit_pb2.MINUTE
    response = await ask(rpc, message)
    assert response.overall_code == OK
    assert MessageToDict(response.dynamic_metadata) == {
        "domain": "edge",
        "descriptors": [
            {"entries": ["w=a", "x="], "hitsAddend": 0, "limit": "requests_per_unit: 5 unit: MINUTE"},
            {"entries": ["k=é"]},
        ],
        "hitsAddend": 2,
        "quotaModeViolations": [1],
        "quotaModeEnabled": True,
    }
    quiet = (await ask(rpc, request([("w", "a")]))).dynamic_metadata
    assert MessageToDict(quiet) == {
        "domain": "edge",
        "descriptors": [{"entries": ["w=a"]}],
        "quotaModeEnabled": False,
    }
    assert not (await ask(RateLimitRpc(service, metrics), message)).HasField("dynamic_metadata")


async def test_a_request_that_passes_because_of_the_shadow_mode_for_all_limits_is_counted(configs, clock, metrics):
    service = Quota(configs, clock=clock, metrics=metrics, modes=Modes(shadow=True))
    await service.put("edge", LIMITS)
    rpc = RateLimitRpc(service, metrics, HeaderOptions((HeaderFamily.RETRY_AFTER,)))
    responses = [await ask(rpc, request([("k", "v")])) for _ in range(3)]
    assert [response.overall_code for response in responses] == [OK] * 3
    assert (responses[2].statuses[0].code, list(responses[2].response_headers_to_add)) == (OVER, [])
    assert (metrics.limits.value("edge", "ok"), metrics.limits.value("edge", "over_limit_shadowed")) == (2, 1)


async def test_decisions_are_counted_by_domain_and_code(rpc, metrics):
    for _ in range(3):
        await ask(rpc, request([("k", "v")]))
    assert (metrics.limits.value("edge", "ok"), metrics.limits.value("edge", "over_limit")) == (2, 1)


async def test_an_unconfigured_domain_is_no_label(rpc, metrics):
    response = await ask(rpc, request([("k", "v")], domain="made-up"))
    assert response == rls_pb2.RateLimitResponse(overall_code=OK, statuses=[{"code": OK}])
    assert metrics.limits.value("other", "domain_not_found") == 1
    assert metrics.limits.value("made-up", "ok") == 0


async def test_a_refusal_by_a_counter_that_is_shared_is_reported_in_the_metrics(configs, clock, metrics):
    service = Quota(configs, MemoryCounters(clock, max_per_limit=0), clock, metrics)
    await service.put("edge", LIMITS)
    rpc = RateLimitRpc(service, metrics)
    codes = [(await ask(rpc, request([("k", "v")]))).overall_code for _ in range(3)]
    assert codes == [OK, OK, OVER]
    assert (metrics.limits.value("edge", "ok"), metrics.limits.value("edge", "over_shared_counter")) == (2, 1)


async def test_more_hits_than_a_request_may_have_are_refused_and_count_as_many_as_it_may(configs, clock, metrics):
    service = Quota(configs, clock=clock, metrics=metrics, max_hits=5)
    await service.put("edge", document(w={"unit": "minute", "requests_per_unit": 20}))
    rpc = RateLimitRpc(service, metrics)
    answers = [(await ask(rpc, request([("w", "v")], hits_addend=hits))) for hits in (5, 6, 2**32 - 1, 1)]
    assert [answer.overall_code for answer in answers] == [OK, OVER, OVER, OK]
    assert [answer.statuses[0].limit_remaining for answer in answers] == [15, 0, 0, 4]
    assert answers[1].statuses[0].current_limit.requests_per_unit == 20
    assert metrics.limits.value("edge", "too_many_hits") == 2


async def test_a_descriptor_with_too_many_hits_refuses_the_request_and_no_other_descriptor(configs, clock, metrics):
    service = Quota(configs, clock=clock, metrics=metrics, max_hits=5)
    await service.put("edge", document(k={"unit": "minute", "requests_per_unit": 9}, w={"unlimited": True}))
    message = request([("k", "a")], [("k", "b")], [("w", "c")], hits_addend=1)
    message.descriptors[0].hits_addend.value = 2**64 - 1
    message.descriptors[2].hits_addend.value = 2**64 - 1
    response = await ask(RateLimitRpc(service, metrics), message)
    assert response.overall_code == OVER
    assert [status.code for status in response.statuses] == [OVER, OK, OK]


@pytest.mark.parametrize("negative", [True, False])
async def test_negative_hits_are_refused_by_limits_that_lend_nothing(rpc, negative):
    """`is_negative_hits` is field 4 of a descriptor in newer versions of Envoy's API."""
    message = request([("w", "v")])
    message.descriptors[0].hits_addend.value = 3
    descriptor = message.descriptors[0].SerializeToString() + (b"\x20\x01" if negative else b"\x20\x00")
    message.descriptors[0].ParseFromString(descriptor)
    if not negative:
        assert (await ask(rpc, message)).statuses[0].limit_remaining == 4
        return
    with pytest.raises(InvalidInputError) as caught:
        await ask(rpc, message)
    assert [violation.path for violation in caught.value.violations] == ["descriptors[0].is_negative_hits"]
    assert (await ask(rpc, request([("w", "v")]))).statuses[0].limit_remaining == 6


async def test_negative_hits_give_slots_back(configs, clock, metrics):
    service = Quota(configs, clock=clock, metrics=metrics)
    limit = {"algorithm": "concurrency", "requests_per_unit": 2, "duration": "30s"}
    await service.put("edge", document(k=limit))
    rpc = RateLimitRpc(service, metrics)
    taking, giving = request([("k", "a")]), request([("k", "a")])
    giving.descriptors[0].ParseFromString(giving.descriptors[0].SerializeToString() + b"\x20\x01")
    codes = [(await ask(rpc, message)).overall_code for message in (taking, taking, taking, giving, taking, taking)]
    assert codes == [OK, OK, OVER, OK, OK, OVER]
    status = (await ask(rpc, giving)).statuses[0]
    assert (status.current_limit.requests_per_unit, status.current_limit.unit) == (
        2,
        rls_pb2.RateLimitResponse.RateLimit.UNKNOWN,
    )
    assert metrics.rules.series["edge.k"].within == 3


@pytest.mark.parametrize(
    ("counters", "error"),
    [
        (AwayCounters(), UnavailableError),
        (BrokenCounters(), ZeroDivisionError),
        (FetchedCounters(AwayCounters()), UnavailableError),
    ],
)
async def test_an_internal_fault_is_an_error_and_is_counted(configs, clock, metrics, counters, error):
    service = Quota(configs, counters, clock, metrics)
    await service.put("edge", LIMITS)
    with pytest.raises(error):
        await ask(RateLimitRpc(service, metrics), request([("k", "v")]))
    assert metrics.limits.value("other", "error") == 1


async def test_an_override_without_a_unit_is_refused(rpc):
    message = request([("k", "v")])
    message.descriptors[0].limit.requests_per_unit = 9
    with pytest.raises(InvalidInputError, match=r"descriptors\[0\].limit.unit"):
        await ask(rpc, message)
