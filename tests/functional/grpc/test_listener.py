"""A mesh port whose startup is cancelled or fails."""

import asyncio
import os
import ssl
import tempfile

import pytest

from app.core.errors import PreconditionError
from app.core.net import Address
from app.transport.serving import MeshListener, TlsMaterial
from app.transport.sockets import listen
from app.transport.threads import workers
from tests.assets.certificates import MeshCa
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


async def test_a_certificate_is_served_without_a_directory_for_temporary_files(listener, monkeypatch, tmp_path):
    """As on a full disk; and no key is left on any disk."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    ca = MeshCa()
    key, chain = ca.serving()
    await listener.start(TlsMaterial(chain.decode(), key, ca.roots))
    context = ssl.create_default_context(cadata=ca.roots)
    context.check_hostname = False
    _, writer = await asyncio.open_connection("127.0.0.1", listener.port, ssl=context)
    assert writer.get_extra_info("peercert")
    writer.close()
    await writer.wait_closed()


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="only Linux schedules threads as a batch")
async def test_threads_that_read_and_write_do_not_interrupt_the_one_that_runs_python(listener):
    ca = MeshCa()
    key, chain = ca.serving()
    await listener.start(TlsMaterial(chain.decode(), key, ca.roots))
    await listener.rotate(TlsMaterial(chain.decode(), key, ca.roots))
    policies = [os.sched_getscheduler(thread) for thread in workers()]
    assert policies
    assert set(policies) == {os.SCHED_BATCH}
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


async def test_a_certificate_that_there_is_no_room_for_is_refused(listener, monkeypatch):
    def full(_name):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "memfd_create", full)
    with pytest.raises(PreconditionError, match="No space left"):
        await listener.start(TlsMaterial("", b"", ""))
