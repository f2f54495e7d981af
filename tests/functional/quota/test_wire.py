"""The rate limit service over real gRPC, asked by grpcio."""

import asyncio

import grpc.aio
import pytest
from envoy.service.ratelimit.v3 import rls_pb2, rls_pb2_grpc

from app.quota.backends.memory import MemoryCounters
from app.quota.model import MAX_KEY_LENGTH
from tests.fakes.clock import ManualClock
from tests.fakes.quota import AwayCounters, FetchedCounters
from tests.fakes.served_quota import served_quota

LIMITS = {
    "domain": "edge",
    "descriptors": [{"key": "k", "rate_limit": {"unit": "hour", "requests_per_unit": 1}}],
}


def request(domain="edge", key="k"):
    return rls_pb2.RateLimitRequest(domain=domain, descriptors=[{"entries": [{"key": key, "value": "v"}]}])


async def ask(served, message):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        return await rls_pb2_grpc.RateLimitServiceStub(channel).ShouldRateLimit(message, timeout=30)


async def refusal(served, message):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(served, message)
    return caught.value.code(), caught.value.details()


async def test_grpcio_receives_codes_and_limits():
    async with served_quota() as served:
        await served.service.put("edge", LIMITS)
        first, second = await ask(served, request()), await ask(served, request())
    assert (first.overall_code, second.overall_code) == (
        rls_pb2.RateLimitResponse.OK,
        rls_pb2.RateLimitResponse.OVER_LIMIT,
    )
    assert second.statuses[0].current_limit.unit == rls_pb2.RateLimitResponse.RateLimit.HOUR


async def test_refusals_have_the_codes_and_texts_of_envoyproxy_ratelimit():
    async with served_quota() as served:
        assert await refusal(served, request()) == (
            grpc.StatusCode.UNKNOWN,
            "no rate limit configuration loaded",
        )
        await served.service.documents.refresh()
        assert await refusal(served, request(domain="")) == (
            grpc.StatusCode.UNKNOWN,
            "rate limit domain must not be empty",
        )
        assert await refusal(served, rls_pb2.RateLimitRequest(domain="edge")) == (
            grpc.StatusCode.UNKNOWN,
            "rate limit descriptor list must not be empty",
        )


def fetched(clock):
    return FetchedCounters(MemoryCounters(clock))


@pytest.mark.parametrize("counters", [MemoryCounters, fetched])
async def test_calls_at_the_same_time_over_one_connection_are_counted_exactly(counters):
    async with served_quota(counters(ManualClock())) as served:
        limit = {"unit": "hour", "requests_per_unit": 20}
        await served.service.put("edge", {"domain": "edge", "descriptors": [{"key": "k", "rate_limit": limit}]})
        async with grpc.aio.insecure_channel(f"127.0.0.1:{served.port}") as channel:
            stub = rls_pb2_grpc.RateLimitServiceStub(channel)
            calls = (stub.ShouldRateLimit(request(), timeout=30) for _ in range(50))
            codes = [response.overall_code for response in await asyncio.gather(*calls)]
    assert codes.count(rls_pb2.RateLimitResponse.OK) == 20
    assert codes.count(rls_pb2.RateLimitResponse.OVER_LIMIT) == 30
    assert served.metrics.rpcs.value("/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit", "OK") == 50


@pytest.mark.parametrize("counters", [AwayCounters(), FetchedCounters(AwayCounters())], ids=["known", "fetched"])
async def test_a_bound_and_unreachable_counters_have_codes_of_their_own(counters):
    async with served_quota(counters) as served:
        await served.service.put("edge", LIMITS)
        code, details = await refusal(served, request(key="k" * (MAX_KEY_LENGTH + 1)))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "descriptors[0].entries[0].key" in details
        code, _ = await refusal(served, request())
        assert code is grpc.StatusCode.UNAVAILABLE
