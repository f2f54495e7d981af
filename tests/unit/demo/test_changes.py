import asyncio
from datetime import timedelta

import httpx
import pytest

from app.core.private_files import replace_private_file
from app.demo import story
from app.demo.load import SteadyLoad
from app.demo.steps import UnexpectedError
from tests.fakes.clock import ManualClock
from tests.unit.demo.meshes import mesh_answering


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
async def test_the_time_until_a_policy_is_in_force_is_told(tmp_path, monkeypatch, late, milliseconds):
    monkeypatch.setattr("app.demo.mesh.LOOK_AGAIN_SECONDS", 0)
    (tmp_path / "control-plane").mkdir()
    replace_private_file(tmp_path / "control-plane" / "admin.token", b"secret")
    clock = ManualClock()
    seen = await story.policy_changed(mesh_answering(Door(clock, late), tmp_path), clock)
    assert seen == f"in force after {milliseconds} ms, out of force after {milliseconds} ms"


class Rotation:
    """Two sidecars whose certificates change when a request for them comes, and live long once the admin says so."""

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
    monkeypatch.setattr("app.demo.load.PAUSE_SECONDS", 0)
    (tmp_path / "control-plane").mkdir()
    replace_private_file(tmp_path / "control-plane" / "admin.token", b"secret")
    clock = ManualClock()
    mesh = mesh_answering(Rotation(clock, status), tmp_path)
    load = SteadyLoad(mesh.client, mesh.plan.addresses["web_outbound"].url)
    load.start()
    async with asyncio.timeout(20):
        return await story.certificates_rotated(mesh, load, clock)


async def test_a_rotation_is_seen_when_both_sidecars_hold_others_that_live_long(tmp_path, monkeypatch):
    assert (await rotated(tmp_path, monkeypatch, 200)).startswith("0 of ")


async def test_one_failed_request_spoils_the_rotation(tmp_path, monkeypatch):
    with pytest.raises(UnexpectedError, match=r"no failed request.*status 503"):
        await rotated(tmp_path, monkeypatch, 503)


async def test_a_path_that_was_closed_before_the_change_shows_nothing():
    with pytest.raises(UnexpectedError, match="200 before the change"):
        await story.policy_changed(mesh_answering(lambda name, request: httpx.Response(403)), ManualClock())
