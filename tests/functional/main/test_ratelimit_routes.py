"""What envoyproxy/ratelimit serves beside its RPC, at a running control plane."""

import httpx
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from tests.support.callers import plaintext_channel
from tests.support.serving import PATIENCE, eventually_async

LIMITS = """
domain: json
descriptors:
- {key: user, quota_mode: false, rate_limit: {unit: day, requests_per_unit: 1}}
- {key: user, value: vip, rate_limit: {unlimited: true}}
"""
REQUEST = {"domain": "json", "descriptors": [{"entries": [{"key": "user", "value": "ann"}]}]}


def test_limits_are_asked_as_json_and_shown(shared_server):
    shared_server.put_quota("json", LIMITS)
    url = f"http://127.0.0.1:{shared_server.plaintext_port}/json"
    first, second, wrong = (httpx.post(url, json=body) for body in (REQUEST, REQUEST, {"domains": 1}))
    assert (first.status_code, second.status_code, wrong.status_code) == (200, 429, 400)
    assert second.headers["content-type"] == "application/json"
    assert second.json()["overallCode"] == "OVER_LIMIT"
    assert second.json()["statuses"][0]["currentLimit"] == {"requestsPerUnit": 1, "unit": "DAY"}
    lines = shared_server.ask("GET", "/rlconfig").text.splitlines()
    assert lines == [
        "json.user_vip: unlimited",
        "json.user: unit=DAY requests_per_unit=1, shadow_mode: false, quota_mode: false",
    ]
    assert httpx.get(f"{shared_server.url}/rlconfig").status_code == 401
    metrics = shared_server.metrics()
    assert metrics['meshward_quota_rule_hits_total{domain="json",rule="user"}'] == 2
    assert metrics['meshward_quota_rule_over_limit_total{domain="json",rule="user"}'] == 1


def test_the_health_check_has_its_path(shared_server):
    shared_server.wait_until_ready()
    answer = httpx.get(f"{shared_server.url}/healthcheck")
    assert (answer.status_code, answer.text) == (200, "OK")


async def test_health_is_served_for_the_service_name_of_envoyproxy_ratelimit(shared_server):
    async def is_serving():
        state = await HealthStub(channel).Check(HealthCheckRequest(service="ratelimit"), timeout=PATIENCE)
        return state.status == HealthCheckResponse.SERVING

    async with plaintext_channel(shared_server) as channel:
        # What `/readyz` says is published once a second.
        await eventually_async(is_serving, "the service to be served")
