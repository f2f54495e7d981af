"""A mesh port whose startup is cancelled or fails."""

import asyncio
import tempfile

import pytest

from app.core.errors import PreconditionError
from app.core.net import Address
from app.transport.serving import MeshListener
from app.transport.sockets import listen
from tests.fakes.served_echo import Mesh

PATIENCE = 10


@pytest.fixture
async def listener():
    made = MeshListener(listen(Address("127.0.0.1", 0)), Mesh().application, grace_seconds=1)
    yield made
    await asyncio.wait_for(made.stop(), PATIENCE)


async def test_a_cancelled_start_leaves_no_server_running(listener):
    before = asyncio.all_tasks()
    starting = asyncio.create_task(listener.start())
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks() - before) == 2  # the start itself, and the server that it waits for
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await asyncio.wait_for(listener.stop(), PATIENCE)
    assert asyncio.all_tasks() == before


async def test_without_a_directory_for_temporary_files_the_error_has_the_reason(listener, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(PreconditionError, match="temporary files"):
        await listener.start()
