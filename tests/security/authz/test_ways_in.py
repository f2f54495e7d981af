"""Ways around a policy, each through a real Envoy with the generated bootstrap: none reaches the workload."""

import pytest

from app.authz.model import AuthzOptions, Matching
from app.core.errors import InvalidInputError
from app.envoy.sidecar import Protocol
from tests.assets.ways_in import (
    AUTHENTICATION,
    CONNECTIONS,
    FORBIDDEN,
    OVERRIDES,
    PASSING,
    POLICIES,
    TCP_POLICIES,
    TOKEN_POLICIES,
    WAYS,
    WAYS_2,
    Way,
    token_ways,
    tokens_that_pass,
)
from tests.fakes.authz import policy
from tests.fakes.engine import WaitingEngine
from tests.support.ports import free_ports
from tests.support.protected_workload import check_of, documents, protected, reached, send


def with_joined_headers(made):
    """As a proxy is configured that does not send every header as it came."""
    del check_of(made)["encode_raw_headers"]
    return made


ASKING = {
    f"{check.value}{', headers joined' if joined else ''}": {"check": check, **joined}
    for check in Protocol
    for joined in ({}, {"change": with_joined_headers})
}


@pytest.mark.parametrize("asking", ASKING.values(), ids=ASKING)
@pytest.mark.parametrize("matching", Matching)
@pytest.mark.timeout(240)
async def test_no_way_in_reaches_the_workload(tmp_path, matching, asking):
    options = AuthzOptions(matching=matching)
    async with protected(tmp_path, documents(POLICIES), options=options, **asking) as (workload, port, peers, _):
        assert len(await reached(PASSING, workload, port, peers)) == len(PASSING)
        assert await reached(WAYS, workload, port, peers) == []
        assert await reached(WAYS_2, workload, port, peers) == []
        overriding = await reached(OVERRIDES, workload, port, peers)
        assert [head for _, head in overriding if any(text in head for text in FORBIDDEN)] == []


@pytest.mark.parametrize("asking", ASKING.values(), ids=ASKING)
@pytest.mark.parametrize("matching", Matching)
@pytest.mark.timeout(240)
async def test_no_token_that_proves_nothing_reaches_the_workload(tmp_path, matching, asking):
    text, options = AUTHENTICATION + documents(TOKEN_POLICIES), AuthzOptions(matching=matching)
    async with protected(tmp_path, text, options=options, **asking) as (workload, port, peers, served):
        now = served.clock.now()
        passing = [*tokens_that_pass(now)]
        assert len(await reached(passing, workload, port, peers)) == len(passing)
        assert await reached(token_ways(now), workload, port, peers) == []


# Envoy reports an error to a call of gRPC as an answer with status 200, which in a check over HTTP lets a request pass.
UNANSWERED = tuple(
    Way("unanswered", headers=headers, method="POST", http2=http2)
    for headers in (
        (),
        ("content-type: application/grpc",),
        ("content-type: application/grpc", "te: trailers"),
        ("content-type: application/grpc+proto",),
    )
    for http2 in (False, True)
)


@pytest.mark.parametrize("check", Protocol)
async def test_a_check_that_is_not_answered_in_time_denies(tmp_path, check):
    """The context of a call whose time is over is no reason to let the request pass."""
    engine = WaitingEngine()
    async with protected(tmp_path, check=check, engine=engine) as (workload, port, peers, _):
        assert await send(Way("late"), port, peers) == 403
        assert (len(engine.requests), workload.heads) == (1, [])
        assert await reached(UNANSWERED, workload, port, peers) == []
        assert len(engine.requests) == 1 + len(UNANSWERED)


def without_control_plane(made):
    """Have Envoy ask on a port that nothing listens on."""
    (asked,) = [each for each in made["static_resources"]["clusters"] if each["name"] == "meshward"]
    (endpoint,) = asked["load_assignment"]["endpoints"][0]["lb_endpoints"]
    endpoint["endpoint"]["address"]["socket_address"]["port_value"] = free_ports(1)[0]
    return made


@pytest.mark.parametrize("check", Protocol)
async def test_no_request_passes_while_the_control_plane_is_away(tmp_path, check):
    async with protected(tmp_path, change=without_control_plane, check=check) as (workload, port, peers, _):
        assert await send(Way("away"), port, peers) == 403
        assert await reached(UNANSWERED, workload, port, peers) == []


async def test_a_document_with_a_name_twice_is_refused_and_changes_nothing(tmp_path):
    async with protected(tmp_path, policy("{action: DENY, rules: [{}]}", "all")) as (workload, port, peers, served):
        for twice in ('"action": "DENY", "action": "ALLOW"', '"rules": [{}], "rules": []'):
            metadata = '"metadata": {"name": "all", "namespace": "shop"}, "apiVersion": "security.istio.io/v1"'
            with pytest.raises(InvalidInputError, match="twice"):
                await served.apply(f'{{"kind": "AuthorizationPolicy", {metadata}, "spec": {{{twice}}}}}')
        assert await reached([Way("plain", "/hello")], workload, port, peers) == []


def over_tcp(made):
    """Have the listener ask about connections alone, and hand them on."""
    chain = made["static_resources"]["listeners"][0]["filter_chains"][0]
    http = chain["filters"][0]["typed_config"]
    check = next(each["typed_config"] for each in http["http_filters"] if "grpc_service" in each["typed_config"])
    kept = {name: check[name] for name in ("transport_api_version", "grpc_service", "include_peer_certificate")}
    extensions = "type.googleapis.com/envoy.extensions.filters.network"
    asking = {"@type": f"{extensions}.ext_authz.v3.ExtAuthz", "stat_prefix": "check", **kept}
    cluster = http["route_config"]["virtual_hosts"][0]["routes"][-1]["route"]["cluster"]
    handing = {"@type": f"{extensions}.tcp_proxy.v3.TcpProxy", "stat_prefix": "on", "cluster": cluster}
    chain["filters"] = [{"name": "check", "typed_config": asking}, {"name": "on", "typed_config": handing}]
    return made


@pytest.mark.parametrize("matching", Matching)
async def test_no_connection_that_is_denied_reaches_the_workload(tmp_path, matching):
    options = AuthzOptions(matching=matching)
    async with protected(tmp_path, documents(TCP_POLICIES), over_tcp, options=options) as (workload, port, peers, _):
        ways = [Way("connection", "/hello", peer=peer) for peer in CONNECTIONS]
        found = {way.peer for way, _ in await reached(ways, workload, port, peers)}
        expected = {peer for peer, passes in CONNECTIONS.items() if passes}
        assert found == expected
