"""Who may count in which domain."""

import pytest
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse

from app.core.errors import PermissionDeniedError
from app.quota.model import Code, Descriptor
from app.quota.rpc.ratelimit import RateLimitRpc
from app.quota.rules.callers import CallerGrant, may_count
from app.quota.service import MAX_KNOWN_CALLERS
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Credential, Principal
from tests.fakes.context import call_context
from tests.fakes.quota import Quota, respond

GATEWAY, WEB = "spiffe://cluster.local/ns/edge/sa/gateway", "spiffe://cluster.local/ns/shop/sa/web"
GRANTS = (
    CallerGrant("edge", GATEWAY),
    CallerGrant("edge", "loopback"),
    CallerGrant("shop/*", "spiffe://cluster.local/ns/shop/*"),
)
LIMIT = {"key": "k", "rate_limit": {"unit": "day", "requests_per_unit": 2}}
ASKED = [Descriptor((("k", "v"),))]


def caller(name):
    if name == "loopback":
        return Principal(Credential.LOOPBACK)
    return Principal(Credential.SVID, SpiffeId.parse(name))


@pytest.mark.parametrize(
    ("domain", "name", "allowed"),
    [
        ("edge", GATEWAY, True),
        ("edge", GATEWAY + "2", False),
        ("edge", WEB, False),
        ("edge", "loopback", True),
        ("edge2", WEB, True),
        ("shop/a", WEB, True),
        ("shop/a", GATEWAY, False),
        ("shop/a", "loopback", False),
        ("shop/", WEB, True),
        ("shop", GATEWAY, True),
    ],
)
def test_a_domain_that_grants_name_is_for_the_callers_that_they_name(domain, name, allowed):
    assert may_count(GRANTS, domain, name) == allowed


def test_any_caller_may_count_where_nothing_is_granted():
    assert may_count((), "edge", WEB)


def test_a_grant_for_every_domain_closes_them_to_all_others():
    grants = (CallerGrant("*", GATEWAY), CallerGrant("shop", WEB))
    assert [may_count(grants, domain, WEB) for domain in ("edge", "shop", "")] == [False, True, False]
    assert [may_count(grants, domain, GATEWAY) for domain in ("edge", "shop", "")] == [True, True, True]


@pytest.fixture
async def service(configs, clock, metrics):
    service = Quota(configs, clock=clock, metrics=metrics, callers=GRANTS)
    await service.put("edge", {"domain": "edge", "descriptors": [LIMIT]})
    return service


@pytest.mark.parametrize("name", [WEB, "spiffe://cluster.local/ns/edge/sa/other"])
async def test_a_caller_that_may_not_count_is_refused_and_uses_up_nothing(service, name):
    matched = service.match("edge", ASKED, 2)
    for _ in range(2):
        with pytest.raises(PermissionDeniedError) as caught:
            service.should_rate_limit(caller(name), matched)
        assert caught.value.message == f"{name} may not count in the domain 'edge': quota.callers lists who may"
    assert service.should_rate_limit(caller(GATEWAY), matched).code is Code.OK


async def test_a_domain_without_limits_is_answered_to_every_caller(service):
    assert service.should_rate_limit(caller(GATEWAY), service.match("shop/a", ASKED, 0)).code is Code.OK


async def test_a_refusal_is_an_error_of_the_call_and_counted(service, metrics):
    rpc = RateLimitRpc(service, metrics)
    message = RateLimitRequest(domain="edge", descriptors=[{"entries": [{"key": "k", "value": "v"}]}])
    with pytest.raises(PermissionDeniedError):
        respond(rpc, message, call_context(principal=caller(WEB)))
    assert respond(rpc, message, call_context(principal=caller("loopback"))).overall_code == RateLimitResponse.OK
    assert metrics.limits.value("edge", "caller_refused") == 1
    assert metrics.limits.value("edge", "ok") == 1


async def test_many_callers_claim_no_memory(service):
    matched = service.match("edge", ASKED, 0)
    for number in range(MAX_KNOWN_CALLERS + 10):
        with pytest.raises(PermissionDeniedError):
            service.should_rate_limit(caller(f"{WEB}{number}"), matched)
    assert len(service._may_count) <= MAX_KNOWN_CALLERS
