"""A real Envoy with its global rate limit filter, asking this service."""

import asyncio
import json
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from app.demo.place import envoy_binary
from app.quota.model import Code, Descriptor
from tests.fakes.quota import BrokenCounters
from tests.fakes.served_quota import served_quota
from tests.support.serving import eventually_async

START_SECONDS = 30
LIMITS: dict[str, Any] = {
    "domain": "edge",
    "descriptors": [
        {"key": "user", "rate_limit": {"unit": "minute", "requests_per_unit": 2, "name": "per-user"}},
        {"key": "user", "value": "vip", "rate_limit": {"unlimited": True}},
        {"key": "slot", "rate_limit": {"algorithm": "concurrency", "requests_per_unit": 1, "duration": "1h"}},
        {
            "key": "path",
            "value": "/api/*",
            "descriptors": [{"key": "user", "rate_limit": {"unit": "day", "requests_per_unit": 3}}],
        },
    ],
}


def typed(name, **fields):
    return {"@type": f"type.googleapis.com/{name}", **fields}


def header(name, key):
    return {"request_headers": {"header_name": name, "descriptor_key": key, "skip_if_absent": True}}


def socket(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def bootstrap(rls_port, upstream, fail_closed):
    """Two listeners: the gateway, and the upstream behind it; an answer of the gateway's own would not be limited."""
    limit = typed(
        "envoy.extensions.filters.http.ratelimit.v3.RateLimit",
        domain="edge",
        timeout="10s",
        failure_mode_deny=fail_closed,
        rate_limit_service={"transport_api_version": "V3", "grpc_service": {"envoy_grpc": {"cluster_name": "rls"}}},
    )
    slot = {"actions": [header("x-slot", "slot")]}
    limits = [
        slot,
        {**slot, "apply_on_stream_done": True, "hits_addend": {"number": 1, "is_negative_hits": True}},
        {"actions": [header("x-user", "user")]},
        {"actions": [header(":path", "path"), header("x-user", "user")]},
    ]
    gateway = http(
        {"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}, [{"name": "quota", "typed_config": limit}], limits
    )
    answer = http({"match": {"prefix": "/"}, "direct_response": {"status": 200}}, [], [])
    pipe = {"pipe": {"path": str(upstream)}}
    return {
        "admin": {"address": socket(0)},
        "static_resources": {
            "listeners": [
                {"name": "gateway", "address": socket(0), "filter_chains": [{"filters": [gateway]}]},
                {"name": "upstream", "address": pipe, "filter_chains": [{"filters": [answer]}]},
            ],
            "clusters": [cluster("rls", socket(rls_port), {"http2_protocol_options": {}}), cluster("upstream", pipe)],
        },
    }


def http(route, filters, rate_limits):
    host: dict[str, Any] = {"name": "all", "domains": ["*"], "routes": [route]}
    if rate_limits:  # here, and not in the virtual host, a limit can apply when the stream is done
        per_route = typed("envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute", rate_limits=rate_limits)
        host["typed_per_filter_config"] = {"quota": per_route}
    router = typed("envoy.extensions.filters.http.router.v3.Router")
    manager = typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="http",
        route_config={"virtual_hosts": [host]},
        http_filters=[*filters, {"name": "router", "typed_config": router}],
    )
    return {"name": "http", "typed_config": manager}


def cluster(name, address, protocol=None):
    options = typed(
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        explicit_http_config=protocol or {"http_protocol_options": {}},
    )
    return {
        "name": name,
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


@asynccontextmanager
async def envoy(tmp_path, rls_port, *, fail_closed=True):
    """A client of a running Envoy's gateway."""
    config, admin, log = tmp_path / "envoy.json", tmp_path / "admin", tmp_path / "envoy.log"
    config.write_text(json.dumps(bootstrap(rls_port, tmp_path / "up.sock", fail_closed)))
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(str(envoy_binary()), "-c", str(config), "--admin-address-path", str(admin)),
            *("--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning"),
            stdout=output,
            stderr=output,
        )
    try:
        async with asyncio.timeout(START_SECONDS), httpx.AsyncClient() as client:
            port = await listener_port(client, admin, process, log)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            yield client
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def listener_port(client, admin, process, log):
    while True:
        assert process.returncode is None, log.read_text()
        if admin.exists() and (address := admin.read_text()):
            ready = await client.get(f"http://{address}/ready")
            if ready.status_code == 200:
                found = (await client.get(f"http://{address}/listeners?format=json")).json()
                return found["listener_statuses"][0]["local_address"]["socket_address"]["port_value"]
        await asyncio.sleep(0.02)


@pytest.fixture
async def quota():
    async with served_quota() as served:
        await served.service.put("edge", LIMITS)
        yield served


async def get(client, path="/", user="alice"):
    return await client.get(path, headers={"x-user": user} if user else {})


async def test_requests_beyond_the_limit_are_answered_429_with_headers(quota, tmp_path):
    async with envoy(tmp_path, quota.port) as client:
        answers = [await get(client) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["1", "0", "0"]
        assert answers[2].headers["x-ratelimit-limit"] == '2, 2;w=60;name="per-user"'
        assert answers[2].headers["x-ratelimit-reset"] == "60"
        assert answers[2].headers["ratelimit-policy"] == '"per-user";q=2;w=60'
        assert answers[2].headers["ratelimit"] == '"per-user";r=0;t=60'
        assert (await get(client, user="bob")).status_code == 200
        quota.clock.advance(60)
        assert (await get(client)).status_code == 200
    assert quota.metrics.limits.value("edge", "over_limit") == 1


async def test_nested_limits_unlimited_users_and_requests_without_descriptors(quota, tmp_path):
    async with envoy(tmp_path, quota.port) as client:
        vip = [(await get(client, user="vip")).status_code for _ in range(4)]
        assert vip == [200, 200, 200, 200]
        nested = [(await get(client, "/api/users", "vip")).status_code for _ in range(4)]
        assert nested == [200, 200, 200, 429]
        assert (await get(client, user=None)).status_code == 200


async def test_a_change_of_the_configuration_counts_from_the_next_request(quota, tmp_path):
    async with envoy(tmp_path, quota.port) as client:
        assert (await get(client)).status_code == 200
        await quota.service.put("edge", {"domain": "edge", "descriptors": [{**LIMITS["descriptors"][0], **NONE_LEFT}]})
        assert (await get(client)).status_code == 429
        await quota.service.delete("edge")
        assert (await get(client)).status_code == 200


NONE_LEFT = {"rate_limit": {"unit": "minute", "requests_per_unit": 0}}


@pytest.mark.parametrize(("fail_closed", "status"), [(True, 500), (False, 200)])
async def test_an_internal_fault_is_left_to_the_failure_mode_of_the_sidecar(tmp_path, fail_closed, status):
    async with served_quota(BrokenCounters()) as quota:
        await quota.service.put("edge", LIMITS)
        async with envoy(tmp_path, quota.port, fail_closed=fail_closed) as client:
            assert (await get(client)).status_code == status
        assert quota.metrics.limits.value("other", "error") == 1


async def test_a_long_value_is_limited_by_a_sidecar_that_fails_open(quota, tmp_path):
    async with envoy(tmp_path, quota.port, fail_closed=False) as client:
        answers = [await get(client, user="x" * 40_000) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]


async def test_a_slot_is_taken_by_a_request_and_given_back_when_it_has_ended(quota, tmp_path):
    slot = {"x-slot": "a"}
    async with envoy(tmp_path, quota.port) as client:
        for _ in range(3):
            assert (await client.get("/", headers=slot)).status_code == 200
            await eventually_async(lambda: free(quota), "the slot to be given back")
        assert quota.service.ask("edge", [Descriptor((("slot", "a"),))], 1).code is Code.OK
        assert (await client.get("/", headers=slot)).status_code == 429


async def free(quota):
    return quota.service.ask("edge", [Descriptor((("slot", "a"),), 0)], 0).statuses[0].remaining == 1
