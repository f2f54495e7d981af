"""ShouldRateLimit as JSON over HTTP: bodies in and out, and what is not a request."""

import asyncio
import json

import pytest

from app.quota.rpc import http
from app.quota.rpc.http import JsonRateLimit
from app.quota.rpc.ratelimit import RateLimitRpc
from app.quota.rules.callers import CallerGrant
from app.spiffe.principal import ANONYMOUS
from app.telemetry.metrics import Metrics
from app.transport import body as body_module
from tests.fakes.quota import AwayCounters, Quota

LIMITS = {
    "domain": "edge",
    "descriptors": [{"key": "k", "rate_limit": {"unit": "minute", "requests_per_unit": 1, "name": "one"}}],
}
REQUEST = {"domain": "edge", "descriptors": [{"entries": [{"key": "k", "value": "v"}]}]}


async def application(counters=None, **options):
    service = Quota(counters=counters, **options)
    await service.put("edge", LIMITS)
    return JsonRateLimit(RateLimitRpc(service, Metrics()))


async def post(app, *chunks, method="POST", disconnect=False):
    scope = {"type": "http", "method": method, "state": {"meshward.principal": ANONYMOUS}, "client": None}
    left, sent = list(chunks), []

    async def receive():
        if not left:
            if disconnect:
                return {"type": "http.disconnect"}
            await asyncio.Event().wait()
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left) or disconnect}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    start, end = sent
    return start["status"], end["body"].decode()


async def test_a_request_is_answered_as_json_and_with_429_over_the_limit():
    app = await application()
    text = json.dumps(REQUEST).encode()
    status, body = await post(app, text[:20], text[20:])
    assert (status, json.loads(body)) == (
        200,
        {
            "overallCode": "OK",
            "statuses": [
                {
                    "code": "OK",
                    "currentLimit": {"requestsPerUnit": 1, "unit": "MINUTE", "name": "one"},
                    "durationUntilReset": "60s",
                }
            ],
        },
    )
    status, body = await post(app, text)
    assert (status, json.loads(body)["overallCode"]) == (429, "OVER_LIMIT")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "not a RateLimitRequest"),
        (b"[1]", "not a RateLimitRequest"),
        (b'{"domains": "d"}', "not a RateLimitRequest"),
        (b'{"domain": "\xff"}', "not a RateLimitRequest"),
        (b'{"domain": "edge", "descriptors": [{"hitsAddend": "-1"}]}', "not a RateLimitRequest"),
        (b"[" * 100_000, "not a RateLimitRequest"),
        (b'{"domain": ' + b'{"a":' * 5_000, "not a RateLimitRequest"),
        (b"{}", "rate limit domain must not be empty"),
        (b'{"domain": "edge"}', "rate limit descriptor list must not be empty"),
        (b" " * (http.MAX_BODY_BYTES + 1), "longer than"),
    ],
)
async def test_what_is_no_request_is_400(text, problem):
    status, body = await post(await application(), text)
    assert (status, problem in body) == (400, True), body


async def test_a_body_that_does_not_end_is_400(monkeypatch):
    monkeypatch.setattr(body_module, "BODY_TIMEOUT_SECONDS", 0)
    assert (await post(await application()))[0] == 400


async def test_a_client_that_disconnects_counts_nothing():
    app = await application()
    text = json.dumps(REQUEST).encode()
    assert (await post(app, text, disconnect=True))[0] == 400
    assert (await post(app, text))[0] == 200


async def test_other_methods_and_callers_and_faults_have_their_status():
    text = json.dumps(REQUEST).encode()
    assert (await post(await application(), text, method="GET"))[0] == 405
    refused = await application(callers=[CallerGrant("edge", "loopback")])
    assert (await post(refused, text))[0] == 403
    assert (await post(await application(AwayCounters()), text))[0] == 503
