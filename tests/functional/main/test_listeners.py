"""What the control plane does when one of its own parts ends: it ends as well, and says which."""

import asyncio

import pytest

from app.core.clock import SystemClock
from app.db.migrate import upgrade
from app.main.control_plane import ControlPlane
from app.main.parts import make_parts
from app.settings import load
from app.transport.rest.authentication import ensure_token
from tests.support.serving import PATIENCE, environment


@pytest.fixture
async def control_plane(tmp_path):
    """One that has started in this process, with both mesh ports up."""
    ensure_token(tmp_path / "admin.token")
    parts = make_parts(load(environment(tmp_path, shutdown_grace="1s")).settings, SystemClock())
    await upgrade(parts.engine)
    control_plane = ControlPlane(parts)
    await control_plane.start()
    async with asyncio.timeout(PATIENCE):
        await control_plane._tls_served.wait()
    yield control_plane
    await control_plane.stop()
    await parts.engine.dispose()


@pytest.mark.parametrize("port", ["_tls", "_plaintext"])
async def test_a_mesh_port_whose_server_ends_by_itself_ends_the_control_plane(control_plane, port):
    listener = getattr(control_plane, port)
    assert not listener.ended.is_set()
    listener._current.server.shutdown()
    async with asyncio.timeout(PATIENCE):
        await control_plane.failed
        assert listener.ended.is_set()


async def test_a_server_that_is_replaced_ends_nothing(control_plane):
    listener = control_plane._plaintext
    await listener.rotate(None)
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait(listener._shutting_down)
    assert not listener.ended.is_set()
    assert not control_plane.failed.done()


async def test_a_background_task_that_ends_by_a_fault_ends_the_control_plane(control_plane, monkeypatch):
    async def fault():
        raise RuntimeError("a fault of the test's own")

    names = {task.get_name() for task in control_plane._tasks}
    kept = {"ca", "bans", "crls", "policies", "quotas", "audit", "database", "counters", "write-probe"}
    kept |= {"request-authentications", "peer-authentications", "credential-authentications", "request-jwks"}
    kept |= {"api-keys", "ended-api-keys"}
    ends = {"join-tokens", "banned-streams"}
    assert names == {"mesh-plaintext", "mesh-tls", "refusals", "serving-certificate", "health", *kept, *ends}
    monkeypatch.setattr(control_plane._health, "failures", fault)
    async with asyncio.timeout(PATIENCE):
        await control_plane.failed
