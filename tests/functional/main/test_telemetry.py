"""What the control plane tells of itself: a metric for everything it does, and one id through all of a request."""

import grpc.aio
import pytest

from tests.support.callers import (
    CART,
    certify,
    check,
    code_of,
    join,
    plaintext_channel,
    rate_limit,
    tls_channel,
)
from tests.support.serving import Serving, eventually

LIMIT = "{domain: mesh, descriptors: [{key: key, rate_limit: {unit: year, requests_per_unit: 1}}]}"
OTHER = "spiffe://cluster.local/ns/other/sa/x"
ALLOW_NOTHING = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nothing, namespace: shop}
spec: {}
"""


@pytest.fixture
def server(serving):
    return serving.start(log_level="debug")


@pytest.fixture(scope="module")
def talkative(tmp_path_factory):
    serving = Serving(tmp_path_factory.mktemp("serve"))
    yield serving.start(log_level="debug")
    serving.end()


async def test_each_thing_done_is_a_sample_of_the_metrics(server):
    server.put_quota("mesh", LIMIT)
    server.post_policies(ALLOW_NOTHING)
    cart = await join(server, CART)
    async with tls_channel(server, cart) as channel:
        assert not await check(channel)
        await rate_limit(channel, "mesh")
        await rate_limit(channel, "mesh")
        await rate_limit(channel, "unknown")
        await certify(channel)
    async with tls_channel(server, await join(server, OTHER)) as channel:
        assert await check(channel, destination=OTHER)
    async with tls_channel(server) as channel:
        assert await code_of(certify(channel, token="guessed")) is grpc.StatusCode.UNAUTHENTICATED
    samples = server.metrics()
    create = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
    expected = {
        'meshward_rpcs_total{code="OK",method="/envoy.service.auth.v3.Authorization/Check"}': 2,
        'meshward_rpcs_total{code="OK",method="/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"}': 3,
        f'meshward_rpcs_total{{code="OK",method="{create}"}}': 3,
        f'meshward_rpcs_total{{code="UNAUTHENTICATED",method="{create}"}}': 1,
        f'meshward_rpc_duration_seconds_count{{method="{create}"}}': 4,
        'meshward_authz_decisions_total{cause="no_match",outcome="deny"}': 1,
        'meshward_authz_decisions_total{cause="no_policy",outcome="allow"}': 1,
        "meshward_authz_policies": 1,
        'meshward_ca_issuances_total{result="issued",surface="istio_ca"}': 3,
        'meshward_ca_issuances_total{result="issued",surface="serving"}': 1,
        'meshward_quota_decisions_total{code="ok",domain="mesh"}': 1,
        'meshward_quota_decisions_total{code="over_limit",domain="mesh"}': 1,
        'meshward_quota_decisions_total{code="domain_not_found",domain="other"}': 1,
        'meshward_http_requests_total{method="POST",route="/v1/policies",status="201"}': 1,
    }
    assert {name: samples.get(name) for name in expected} == expected
    for authority in ("root", "signer"):
        assert samples[f'meshward_ca_authority_expiry_timestamp_seconds{{authority="{authority}"}}'] > 1e9


def lines_of(server, request_id):
    return eventually(
        lambda: [event for event in server.events() if event.get("request_id") == request_id], f"a line of {request_id}"
    )


async def test_the_id_of_an_admin_request_is_in_its_answer_and_on_its_lines(talkative):
    answer = talkative.ask("POST", "/v1/policies", content="{", headers={"x-request-id": "from-the-caller"})
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "from-the-caller"
    assert "http_request" in {event["event"] for event in lines_of(talkative, "from-the-caller")}
    for harmful in ("a b", "x" * 200, "<script>", "../../x"):
        made = talkative.ask("GET", "/v1/ca", headers={"x-request-id": harmful}).headers["x-request-id"]
        assert made != harmful
        assert lines_of(talkative, made)
    assert "<script>" not in talkative.log_text


async def test_the_id_of_an_rpc_is_on_the_line_of_its_error(talkative):
    metadata = [("x-request-id", "rpc-7"), ("authorization", "Bearer guessed")]
    async with plaintext_channel(talkative) as channel:
        call = channel.unary_unary("/istio.v1.auth.IstioCertificateService/CreateCertificate")
        assert await code_of(call(b"", metadata=metadata, timeout=20)) is grpc.StatusCode.UNAUTHENTICATED
    (line,) = lines_of(talkative, "rpc-7")
    assert line["code"] == "UNAUTHENTICATED"
    assert line["method"].endswith("/CreateCertificate")
    assert "guessed" not in talkative.log_text


async def test_no_secret_is_in_the_log_whatever_its_level(server):
    token = server.join_token(CART)
    async with tls_channel(server) as channel:
        cart = await certify(channel, token=token)
        assert await code_of(certify(channel, token=token)) is grpc.StatusCode.UNAUTHENTICATED
    async with tls_channel(server, cart) as channel:
        await check(channel, headers={"authorization": "Bearer of-the-user", "cookie": "session=of-the-user"})
    assert server.stop() == 0
    for secret in (token, server.token, "PRIVATE KEY", "of-the-user"):
        assert secret not in server.log_text
