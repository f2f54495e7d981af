"""`meshward serve`: from settings to a running control plane, until a signal stops it."""

import asyncio
import gc
import resource
import signal
import sys
from typing import Any

import structlog

from app.core.clock import ConfirmedClock, SystemClock
from app.core.errors import InternalError
from app.core.private_files import ensure_data_directory
from app.core.process import forbid_core_dumps
from app.db.engine import dispose
from app.main.control_plane import ControlPlane
from app.main.parts import make_parts
from app.settings import Settings
from app.telemetry import logs
from app.telemetry.background import written_in_background
from app.transport.rest.authentication import ensure_token

# How long a thread that compiles documents keeps the interpreter's lock from the event loop, which takes it a few times
# for one check; Python's own five milliseconds made that tens.
SWITCH_SECONDS = 0.0005

log = structlog.get_logger(__name__)


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then let calls in flight end.

    Raises the MeshwardError that keeps it from starting: a directory that cannot be written, a port in use, a database
    that is away or newer than this version, a key that others can read.
    """
    with written_in_background(sys.stderr) as stream:
        sys.setswitchinterval(SWITCH_SECONDS)
        logs.configure(settings.log.level, settings.log.format, stream)
        forbid_core_dumps()
        _raise_descriptor_limit()
        ensure_data_directory(settings.data_dir)
        ensure_token(settings.data_dir / "admin.token")
        asyncio.run(_serve(settings))


def _raise_descriptor_limit() -> None:
    """Raise the soft limit of open files to the hard one; the default is for programs that use `select`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError) as error:  # some systems refuse a limit that they announce
        log.warning("descriptor_limit_stays", descriptors=soft, reason=str(error))


def _freeze() -> None:
    """Take what was made so far, all of which stays, from the garbage collector.

    A collection that looks at it holds the event loop for a tenth of a second.
    """
    gc.collect()
    gc.freeze()


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    parts = make_parts(settings, ConfirmedClock(SystemClock()))
    try:
        control_plane = ControlPlane(parts)
        try:
            if await _started(control_plane, stop):
                await _until_set_or_done(stop, control_plane.failed)
            log.info("stopping")
        finally:
            await control_plane.stop()
    finally:
        await dispose(parts.engine)
    if control_plane.failed.done():
        raise InternalError("a part of the control plane ended unexpectedly; the log has the part and the reason")
    log.info("stopped")


async def _started(control_plane: ControlPlane, stop: asyncio.Event) -> bool:
    """Start, and return whether that was done before `stop` was set; a migration of another replica may take long."""
    starting = asyncio.create_task(control_plane.start())
    await _until_set_or_done(stop, starting)
    if not starting.done():
        starting.cancel()
        await asyncio.wait({starting})
        return False
    await starting
    _freeze()
    return True


async def _until_set_or_done(stop: asyncio.Event, done: "asyncio.Future[None]") -> None:
    stopping = asyncio.create_task(stop.wait())
    waited_for: set[asyncio.Future[Any]] = {stopping, done}
    await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
