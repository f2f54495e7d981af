"""Hits that use up the limits of others, from callers who may not count them, over the wire."""

import grpc
import pytest
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse

from tests.support.callers import CART, code_of, member, plaintext_channel, rate_limit

LIMITS = "{domain: edge, descriptors: [{key: user, rate_limit: {unit: year, requests_per_unit: 3}}]}"
WEB = "spiffe://cluster.local/ns/shop/sa/web"
OTHER = "{domain: other, descriptors: [{key: user, rate_limit: {unit: year, requests_per_unit: 3}}]}"
DENIED = grpc.StatusCode.PERMISSION_DENIED
MOST = 2**32 - 1


@pytest.fixture
def server(serving):
    server = serving.start(quota_callers=f"edge={CART}", quota_max_hits=1000)
    server.put_quota("edge", LIMITS)
    server.put_quota("other", OTHER)
    return server


async def test_only_the_callers_of_a_domain_use_up_its_limits(server):
    async with plaintext_channel(server) as local, member(server, WEB) as web, member(server) as cart:
        for stranger in (local, web):
            for hits in (1, MOST):
                assert await code_of(rate_limit(stranger, "edge", "user", "victim", hits)) is DENIED
        answer = await rate_limit(cart, "edge", "user", "victim")
        assert answer.statuses[0].limit_remaining == 2
        # A domain that the setting does not name is open to every workload, and a call counts so much at most.
        assert (await rate_limit(local, "other", "user", "victim")).statuses[0].limit_remaining == 2
        refused = await rate_limit(web, "other", "user", "another", MOST)
        assert refused.overall_code == RateLimitResponse.OVER_LIMIT
    counted = {name: value for name, value in server.metrics().items() if name.startswith("meshward_quota_decisions")}
    assert sum(value for name, value in counted.items() if "caller_refused" in name and "edge" in name) == 4
    assert sum(value for name, value in counted.items() if "too_many_hits" in name and "other" in name) == 1
