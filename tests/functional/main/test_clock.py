"""A clock that went back: the control plane does not start, says so, and starts once it is right."""

import pytest

from app.core.errors import PreconditionError
from app.db.migrate import upgrade
from app.main.control_plane import ControlPlane
from app.main.parts import make_parts
from app.settings import load
from app.transport.rest.authentication import ensure_token
from tests.fakes.clock import ManualClock
from tests.support.serving import environment

DAY = 24 * 3600


async def start(directory, clock):
    """The roots of a control plane that starts in this process with this clock, and stops."""
    ensure_token(directory / "admin.token")
    parts = make_parts(load(environment(directory, shutdown_grace="1s")).settings, clock)
    try:
        await upgrade(parts.engine)
        control_plane = ControlPlane(parts)
        try:
            await control_plane.start()
            return parts.ca.authorities.bundle().roots
        finally:
            await control_plane.stop()
    finally:
        await parts.engine.dispose()


async def test_a_clock_before_the_root_begins_and_after_it_ended_is_told(tmp_path):
    clock = ManualClock()
    roots = await start(tmp_path, clock)
    keys = sorted((tmp_path / "keys").iterdir())
    clock.turn_back(DAY)
    with pytest.raises(PreconditionError, match=r"the root certificate is valid from .*: set the clock right"):
        await start(tmp_path, clock)
    clock.advance(3700 * DAY)
    with pytest.raises(PreconditionError, match=r"the root certificate expired at .* check the clock"):
        await start(tmp_path, clock)
    clock.turn_back(3699 * DAY)
    assert await start(tmp_path, clock) == roots
    assert [key for key in keys if key not in (tmp_path / "keys").iterdir()] == []
