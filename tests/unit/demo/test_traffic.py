import httpx
import pytest

from app.demo import story
from app.demo.plan import WEB
from app.demo.steps import UnexpectedError
from tests.unit.demo.meshes import mesh_answering

OK = httpx.Response(200, json={"workload": "api", "headers": {"x-forwarded-client-cert": f"By=x;Hash=y;URI={WEB}"}})
DENIED = httpx.Response(403, text="denied", headers={"x-meshward-decision": "demo/no-admin rules[0]"})


def always(answer):
    return lambda name, request: answer


def counting(allowed, last):
    left = [allowed]

    def answer(name, request):
        left[0] -= 1
        return httpx.Response(200) if left[0] >= 0 else last

    return answer


async def fails(look, answer):
    with pytest.raises(UnexpectedError) as caught:
        await look(mesh_answering(answer))
    return caught.value


async def test_an_allowed_request_is_answered_by_api_itself():
    assert "200" in await story.allowed(mesh_answering(always(OK)))
    assert (await fails(story.allowed, always(DENIED))).seen == "403 denied"
    other = httpx.Response(200, json={"workload": "somebody else"})
    assert "somebody else" in (await fails(story.allowed, always(other))).seen


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        httpx.Response(403, text="denied"),
        httpx.Response(403, headers={"x-meshward-decision": "demo/api-readers"}),
        httpx.Response(500, headers={"x-meshward-decision": "demo/no-admin"}),
    ],
)
async def test_a_denial_is_403_by_the_policy_that_was_meant(answer):
    assert "no-admin" in await story.denied(mesh_answering(always(DENIED)))
    assert (await fails(story.denied, always(answer))).expected == "403 by no-admin"


async def test_the_http_check_is_looked_at_on_its_own_listener():
    def answer(name, request):
        assert name == "web_outbound_http_check"
        return DENIED if request.url.path == "/admin" else OK

    assert await story.denied_over_http(mesh_answering(answer))
    await fails(story.denied_over_http, always(OK))
    await fails(story.denied_over_http, always(DENIED))


LIMITED = httpx.Response(429, headers={"x-ratelimit-reset": "30", "x-ratelimit-limit": "5"})


@pytest.mark.parametrize("allowed", [5, 6, 10])
async def test_a_limit_may_begin_anew_once_while_it_is_looked_at(allowed):
    seen = await story.limited(mesh_answering(counting(allowed, LIMITED)))
    assert f"429 after {allowed}" in seen
    assert "30" in seen


@pytest.mark.parametrize(
    "answer",
    [
        counting(4, LIMITED),
        counting(5, httpx.Response(429)),
        counting(5, httpx.Response(503)),
        counting(100, LIMITED),
    ],
)
async def test_a_limit_that_comes_early_bare_late_or_as_another_error_is_a_failure(answer):
    await fails(story.limited, answer)


async def test_the_peers_identity_is_the_one_that_the_sidecar_verified():
    assert str(WEB) in await story.mutual_tls(mesh_answering(always(OK)))


@pytest.mark.parametrize(
    "header", ["", "By=spiffe://x", f"By={WEB}", f"URI={WEB}2", "URI=spiffe://cluster.local/ns/demo/sa/api"]
)
async def test_another_or_no_peer_is_a_failure(header):
    answer = httpx.Response(200, json={"workload": "api", "headers": {"x-forwarded-client-cert": header}})
    assert (await fails(story.mutual_tls, always(answer))).seen == repr(header)


async def test_plaintext_that_gets_any_answer_is_a_failure():
    def cut(name, request):
        raise httpx.RemoteProtocolError("Server disconnected without sending a response.")

    assert "disconnected" in await story.plaintext_refused(mesh_answering(cut))
    await fails(story.plaintext_refused, always(httpx.Response(426)))
