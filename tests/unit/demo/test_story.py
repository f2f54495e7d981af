"""What the steps of the demo accept, and what they report as unexpected."""

import asyncio
from datetime import timedelta

import httpx
import pytest

from app.core.private_files import replace_private_file
from app.demo import story
from app.demo.mesh import WEB
from app.demo.steps import UnexpectedError
from tests.fakes.clock import ManualClock
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
    other = httpx.Response(200, json={"workload": "another"})
    assert "another" in (await fails(story.allowed, always(other))).seen


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        httpx.Response(403, text="denied"),
        httpx.Response(403, headers={"x-meshward-decision": "demo/api-readers"}),
        httpx.Response(500, headers={"x-meshward-decision": "demo/no-admin"}),
    ],
)
async def test_a_denial_is_403_by_the_expected_policy(answer):
    assert "no-admin" in await story.denied(mesh_answering(always(DENIED)))
    assert (await fails(story.denied, always(answer))).expected == "403 by no-admin"


async def test_the_http_check_has_its_own_listener():
    def answer(name, request):
        assert name == "web_outbound_http_check"
        return DENIED if request.url.path == "/admin" else OK

    assert await story.denied_over_http(mesh_answering(answer))
    await fails(story.denied_over_http, always(OK))
    await fails(story.denied_over_http, always(DENIED))


LIMITED = httpx.Response(429, headers={"x-ratelimit-reset": "30", "x-ratelimit-limit": "5"})


@pytest.mark.parametrize("allowed", [5, 6, 10])
async def test_a_limit_may_start_a_new_window_once(allowed):
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
async def test_a_limit_that_is_early_without_headers_late_or_another_error_is_a_failure(answer):
    await fails(story.limited, answer)


async def test_the_identity_of_the_peer_is_the_one_that_the_sidecar_verified():
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


class Door:
    """Answers 200 for /news until a policy closes it, a few requests late; time passes with each answer."""

    def __init__(self, clock, late):
        self.clock = clock
        self.late = late
        self.wanted = 200
        self.answers = [200]

    def __call__(self, name, request):
        self.clock.advance(0.25)
        if name == "admin":
            self.wanted = 403 if request.method == "POST" else 200
            self.answers = [self.answers[-1]] * self.late + [self.wanted]
            return httpx.Response(200)
        status = self.answers[0]
        self.answers = self.answers[1:] or self.answers
        return httpx.Response(status)


@pytest.mark.parametrize(("late", "milliseconds"), [(0, 500), (2, 1000)])
async def test_the_time_until_a_policy_is_active_and_deleted_is_reported(tmp_path, monkeypatch, late, milliseconds):
    monkeypatch.setattr("app.demo.mesh.LOOK_AGAIN_SECONDS", 0)
    (tmp_path / "control-plane").mkdir()
    replace_private_file(tmp_path / "control-plane" / "admin.token", b"secret")
    clock = ManualClock()
    seen = await story.policy_changed(mesh_answering(Door(clock, late), tmp_path, clock))
    assert seen == f"active after {milliseconds} ms, deleted after {milliseconds} ms"


class Rotation:
    """Two sidecars whose certificates change once requests are sent, and have a long lifetime once an entry sets it."""

    def __init__(self, clock, status=200):
        self.clock = clock
        self.status = status
        self.serial = 0
        self.handshakes = 0
        self.lifetime = timedelta(seconds=10)
        self.asked = asyncio.Event()

    def __call__(self, name, request):
        match name:
            case "admin":
                self.lifetime = timedelta(hours=1)
                return httpx.Response(200, json={"items": []})
            case "web_outbound":
                self.asked.set()
                return httpx.Response(self.status)
            case _ if request.url.path == "/stats":
                self.handshakes += 1
                return httpx.Response(200, text=f"listener.x.ssl.handshake: {self.handshakes}\n")
        if self.asked.is_set():
            self.serial += 1
        expires = (self.clock.now() + self.lifetime).isoformat()
        held = {"serial_number": f"{name}{self.serial}", "expiration_time": expires}
        return httpx.Response(200, json={"certificates": [{"cert_chain": [held]}]})


async def rotated(tmp_path, monkeypatch, status):
    monkeypatch.setattr("app.demo.mesh.LOOK_AGAIN_SECONDS", 0)
    monkeypatch.setattr("app.demo.clients.PAUSE_SECONDS", 0)
    (tmp_path / "control-plane").mkdir()
    replace_private_file(tmp_path / "control-plane" / "admin.token", b"secret")
    clock = ManualClock()
    async with asyncio.timeout(20):
        return await story.certificates_rotated(mesh_answering(Rotation(clock, status), tmp_path, clock))


async def test_a_rotation_ends_when_both_sidecars_hold_new_certificates_of_a_long_life(tmp_path, monkeypatch):
    assert (await rotated(tmp_path, monkeypatch, 200)).startswith("0 of ")


async def test_a_failed_request_fails_the_rotation(tmp_path, monkeypatch):
    with pytest.raises(UnexpectedError, match=r"no failed request.*status 503"):
        await rotated(tmp_path, monkeypatch, 503)


async def test_a_path_that_was_closed_before_the_change_is_a_failure():
    with pytest.raises(UnexpectedError, match="200 before the change"):
        await story.policy_changed(mesh_answering(lambda name, request: httpx.Response(403)))
