"""Serving HTTP, the admin API and the agent's metrics, with uvicorn inside the process's own event loop."""

import asyncio
import contextlib
import socket
from collections.abc import Generator

import structlog
import uvicorn
from starlette.types import ASGIApp

from app.core.errors import InternalError

# Open connections: people and pipelines need a handful, and each costs memory.
MAX_CONNECTIONS = 512
# The idle timeout of a connection.
KEEP_ALIVE_SECONDS = 30
# A request line with its headers: many times the length of a bearer token and a cursor.
MAX_HEAD_BYTES = 32 << 10
START_SECONDS = 10.0

_log = structlog.get_logger(__name__)


class HttpListener:
    """An HTTP port: a listening socket and the server that answers on it. Owns the socket."""

    def __init__(self, listener: socket.socket, application: ASGIApp, *, grace_seconds: float) -> None:
        """Give requests in flight `grace_seconds` to end when the listener is stopped."""
        self._listener = listener
        self._server = _Server(_config(application, grace_seconds))
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port that the socket is bound to."""
        port: int = self._listener.getsockname()[1]
        return port

    async def start(self) -> None:
        """Start serving. Raises InternalError if the server does not start."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]), name="http")
        started = asyncio.create_task(self._server.up.wait())
        try:
            await asyncio.wait({self._task, started}, timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            started.cancel()
        if not self._server.up.is_set():
            await self.stop()
            raise InternalError("the HTTP listener did not start; the log has the reason")

    async def stop(self) -> None:
        """Accept no new connections, finish the requests in flight within the grace period, and close."""
        self._server.should_exit = True
        task, self._task = self._task, None
        if task is not None:
            try:
                await task
            except Exception:  # noqa: BLE001 - the process is shutting down, and the other listeners must stop too
                _log.warning("http_server_stopped_late", exc_info=True)
        self._listener.close()


class _Server(uvicorn.Server):
    """Sets `up` when it has started, and leaves the process's signals alone."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def _config(application: ASGIApp, grace_seconds: float) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(grace_seconds)),
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )
