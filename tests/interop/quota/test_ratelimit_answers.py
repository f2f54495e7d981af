"""envoyproxy/ratelimit itself, beside ours: the same configurations and the same requests get the same answers."""

import json
from datetime import datetime

import grpc
import pytest
from envoy.service.ratelimit.v3 import rls_pb2
from google.protobuf.json_format import MessageToDict

from app.quota.model import Modes
from app.quota.rpc.headers import HeaderFamily, HeaderOptions
from app.quota.rpc.ratelimit import RateLimitRpc
from app.telemetry.metrics import Metrics
from app.transport.grpc.status import RpcError
from tests.assets.ratelimit_traffic import Traffic
from tests.fakes.context import call_context
from tests.fakes.quota import Quota, respond
from tests.support.ratelimit_process import ratelimit_process
from tests.support.serving import eventually

pytestmark = [pytest.mark.peer, pytest.mark.timeout(600)]
CONFIGURATIONS, REQUESTS = 500, 24
OK, OVER = rls_pb2.RateLimitResponse.OK, rls_pb2.RateLimitResponse.OVER_LIMIT
CONTEXT = call_context()
PLAIN = HeaderOptions((HeaderFamily.PLAIN,))


async def ours(traffic, modes=Modes()):  # noqa: B008 - it is frozen
    metrics = Metrics()
    service = Quota(metrics=metrics, modes=modes)
    for each in traffic:
        await service.put(each.domain, each.document)
    return RateLimitRpc(service, metrics, PLAIN, dynamic_metadata=True), metrics


def theirs(directory, traffic, **variables):
    texts = {each.domain: json.dumps(each.document) for each in traffic}
    variables = {"LIMIT_RESPONSE_HEADERS_ENABLED": "true", "RESPONSE_DYNAMIC_METADATA": "true", **variables}
    return ratelimit_process(directory, texts, **variables)


def compared(response):
    """An answer without the time to the end of the window and an override's text, which has no fixed form."""
    answer = MessageToDict(response)
    for status in answer["statuses"]:
        status.pop("durationUntilReset", None)
    for descriptor in answer["dynamicMetadata"]["descriptors"]:
        descriptor.pop("limit", None)
    headers = {header["key"].lower(): header["value"] for header in answer.pop("responseHeadersToAdd", [])}
    headers.pop("ratelimit-reset", None)
    refusing = [status for status in answer["statuses"] if status.get("code") == "OVER_LIMIT"]
    # Of several limits that refuse theirs reports the last one, ours the one that resets last.
    answer["headers"] = headers if len(refusing) < 2 else sorted(headers)
    return answer


@pytest.mark.parametrize(
    ("modes", "variables", "configurations"),
    [
        (Modes(), {}, CONFIGURATIONS),
        (Modes(shadow=True), {"SHADOW_MODE": "true"}, 25),
        (Modes(quota=True), {"QUOTA_MODE": "true"}, 25),
    ],
    ids=["enforced", "shadow", "quota"],
)
async def test_generated_requests_get_the_same_answers(tmp_path, modes, variables, configurations):
    traffic = [Traffic(seed) for seed in range(configurations)]
    rpc, _ = await ours(traffic, modes)
    codes, differing = set(), []
    today = datetime.now().astimezone().date()
    with theirs(tmp_path, traffic, **variables) as peer:
        for each in traffic:
            for request in each.requests(REQUESTS):
                expected, found = peer.ask(request), respond(rpc, request, CONTEXT)
                codes |= {status.code for status in expected.statuses}
                if compared(expected) != compared(found):
                    differing.append((each.document, request, compared(expected), compared(found)))
    if datetime.now().astimezone().date() != today:
        pytest.skip("a day ended meanwhile, and with it the windows of one of them")
    assert codes == ({OK} if modes.quota else {OK, OVER})
    assert not differing, differing[0]


async def test_limits_have_the_same_names_and_counts_in_metrics(tmp_path):
    traffic = [Traffic(seed, most_hits=1) for seed in range(50)]
    rpc, metrics = await ours(traffic)
    with theirs(tmp_path, traffic) as peer:
        for each in traffic:
            for request in each.requests(REQUESTS):
                peer.ask(request)
                respond(rpc, request, CONTEXT)
        found = counted(metrics)
        assert len({name for _, name in found}) == 5
        eventually(lambda: peer.rules() == found, "both to have counted the same")


def counted(metrics):
    """What we counted of each limit, under the names that envoyproxy/ratelimit gives limits and counters."""
    found = {}
    for family in metrics.rules.collect():
        name = family.name.removeprefix("meshward_quota_rule_")
        for sample in family.samples:
            rule = f"{sample.labels['domain']}.{sample.labels['rule']}"
            found[rule.translate(str.maketrans(":|", "__")), "total_hits" if name == "hits" else name] = sample.value
    return found


async def test_a_refused_request_uses_up_nothing_where_that_is_set(tmp_path):
    """Where each counter has one limit, which refuses: there a counter that is over goes on counting."""
    traffic = [Traffic(seed, most_hits=1, repeats=False) for seed in range(100)]
    for each in traffic:
        for descriptor in descriptors_of(each.document):
            for flag in ("shadow_mode", "quota_mode", "share_threshold"):
                descriptor.pop(flag, None)
    rpc, _ = await ours(traffic, Modes(count_refused=False))
    differing = []
    with theirs(tmp_path, traffic, STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT="true") as peer:
        for each in traffic:
            for request in each.requests(REQUESTS):
                for descriptor in request.descriptors:
                    descriptor.ClearField("limit")
                expected, found = compared(peer.ask(request)), compared(respond(rpc, request, CONTEXT))
                if expected != found:
                    differing.append((each.document, request, expected, found))
    assert not differing, differing[0]


def descriptors_of(document):
    for descriptor in document.get("descriptors", ()):
        yield descriptor
        yield from descriptors_of(descriptor)


@pytest.mark.parametrize(
    "request_",
    [rls_pb2.RateLimitRequest(), rls_pb2.RateLimitRequest(domain="domain-0")],
    ids=["no domain", "no descriptors"],
)
async def test_errors_have_the_same_code_and_text(tmp_path, request_):
    traffic = [Traffic(0)]
    rpc, _ = await ours(traffic)
    with theirs(tmp_path, traffic) as peer, pytest.raises(grpc.RpcError) as expected:
        peer.ask(request_)
    with pytest.raises(RpcError) as found:
        respond(rpc, request_, CONTEXT)
    assert (found.value.code.name, found.value.message) == (expected.value.code().name, expected.value.details())
