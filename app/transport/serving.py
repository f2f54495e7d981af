"""Serving the mesh application with h2corn, and replacing its certificate without losing a call.

A certificate is replaced by starting a second server on the same socket: it accepts the new connections, while the
first one drains: it finishes its calls in flight, ends its open streams with OK so that clients open them again, and
stops. A call that crosses GOAWAY is refused, unprocessed, and its client makes it again.
"""

import asyncio
import os
import resource
import socket
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import structlog
from h2corn import Config, Server

from app.core.errors import InternalError, PreconditionError
from app.telemetry.metrics import Metrics
from app.transport.grpc.connection import Connections
from app.transport.grpc.peer import UNIX
from app.transport.guard import AcceptedSockets, connections_to_close
from app.transport.mesh import MeshApplication
from app.transport.threads import run_in_batches

# Open streams that one Envoy may hold: its concurrent Checks over one connection, and a few subscriptions.
MAX_STREAMS_PER_CONNECTION = 1024
# The metadata of a call; the attributes of a Check are in its message.
MAX_HEADER_LIST_BYTES = 64 * 1024
MAX_HEADER_FIELDS = 200
# The body of an HTTP check; Envoy sends at most what its own configuration buffers.
MAX_HTTP_BODY_BYTES = 8 * 1024 * 1024
# Threads that read and write for the one that runs Python: with a second one a call costs a quarter more, in wake-ups.
RUNTIME_THREADS = 1
# Connections to one port. Each takes a file descriptor, which the database and the admin API need too: at most a
# quarter of the process's, because two servers share a port while a certificate is replaced.
MAX_CONNECTIONS = 16_384
CONNECTIONS_SHARE = 4
# The graceful shutdown timeout of a server that was replaced.
GRACE_SECONDS = 30.0
# How long open streams continue after GOAWAY: a round trip, with a margin for a busy machine.
STREAM_DRAIN_SECONDS = 0.25
# How long connections stay open after GOAWAY if their clients do not close them, as gRPC clients do.
CONNECTION_DRAIN_SECONDS = 1.0
# The idle timeout of a connection. Clients close theirs sooner (gRPC's after 30 minutes, Envoy after an hour), and only
# they can do so without losing a call that is on its way.
IDLE_SECONDS = 7200.0
START_SECONDS = 10.0
# How often connections that prove nothing are looked for.
GUARD_SECONDS = 0.5
# What a client may send ahead of the application, on a stream and on all streams of a connection.
STREAM_WINDOW_BYTES = 256 * 1024
CONNECTION_WINDOW_BYTES = 1024 * 1024
# The timeout of a handshake and preface, and of a request's headers.
HEAD_SECONDS = 5.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """The TLS files of a listener, PEM: its chain, leaf first, its key, and the roots of client certificates."""

    chain: str
    private_key: bytes = field(repr=False)
    client_roots: str


@dataclass(slots=True)
class _RunningServer:
    """An h2corn server on the listener, its connections, and the task that runs it."""

    server: Server
    connections: Connections
    task: "asyncio.Task[None]"


class MeshListener:
    """One mesh port: a listening socket and the server that answers on it. Owns the socket.

    `ended` is set when the current server ends by itself: the port is not served from then on. `full` is whether it
    has as many connections as it may have.
    """

    def __init__(
        self,
        listener: socket.socket,
        application: MeshApplication,
        *,
        grace_seconds: float = GRACE_SECONDS,
        metrics: Metrics | None = None,
    ) -> None:
        self._listener = listener
        self._grace_seconds = grace_seconds
        self._application = application
        self._metrics = metrics or Metrics()
        self._unix = listener.family == socket.AF_UNIX
        self._accepted = AcceptedSockets(listener)
        self._max_connections = _max_connections()
        self.ended = asyncio.Event()
        self.full = False
        self._current: _RunningServer | None = None
        self._servers: list[_RunningServer] = []
        self._guarding: asyncio.Task[None] | None = None
        self._shutting_down: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The port that the socket is bound to, 0 if it is a Unix socket."""
        port: int = 0 if self._unix else self._listener.getsockname()[1]
        return port

    @property
    def name(self) -> str:
        """The port, or `unix`, for logs and metrics."""
        return UNIX if self._unix else str(self.port)

    async def start(self, tls: TlsMaterial | None = None) -> None:
        """Start serving, in plaintext without `tls`. Raises InternalError or PreconditionError if it cannot."""
        self._current = await self._launch(tls)
        for state in ("proven", "unproven"):
            self._metrics.mesh_connections.set((self.name, state), 0)
        self._guarding = asyncio.create_task(self._guard())
        self._guarding.add_done_callback(self._on_guard_exit)

    async def rotate(self, tls: TlsMaterial) -> None:
        """Serve new connections with `tls`, and drain the present ones."""
        previous, self._current = self._current, await self._launch(tls)
        if previous is not None:
            self._shut_down_in_background(previous)

    async def stop(self) -> None:
        """Accept no new connections, drain within the grace period, and close the socket."""
        current, self._current = self._current, None
        if current is not None:
            await _shut_down(current)
        if self._shutting_down:
            await asyncio.wait(self._shutting_down)
        if self._guarding is not None:
            self._guarding.cancel()
            await asyncio.wait([self._guarding])
        self._listener.close()

    def _on_guard_exit(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled():
            log.error("mesh_guard_ended", port=self.name, exc_info=task.exception())
            self.ended.set()

    async def _guard(self) -> None:
        """Close connections that prove nothing, for as long as the port is served."""
        while True:
            await asyncio.sleep(GUARD_SECONDS)
            now = monotonic()
            try:
                await asyncio.to_thread(self._accepted.scan, now)
            except OSError as error:  # such as no descriptor left to read the list of descriptors
                log.warning("connections_not_scanned", port=self.name, reason=error.strerror)
                continue
            self._servers = [server for server in self._servers if not server.task.done()]
            connections = [each for server in self._servers for each in server.connections.by_client.values()]
            unproven = list(self._accepted.unproven(connections))
            closed = connections_to_close(unproven, now, self._max_connections)
            for inode, reason in closed.items():
                self._accepted.shut_down(inode)
                self._metrics.mesh_connections_closed.add((self.name, reason.value))
            if closed:
                reasons = Counter(reason.value for reason in closed.values())
                log.warning("connections_closed", port=self.name, reasons=dict(reasons))
            self.full = len(self._accepted) >= self._max_connections
            for state, count in (("proven", len(self._accepted) - len(unproven)), ("unproven", len(unproven))):
                self._metrics.mesh_connections.set((self.name, state), count)

    async def _launch(self, tls: TlsMaterial | None) -> _RunningServer:
        application, connections = self._application.for_server()
        with ExitStack() as files:
            config = _config(self._listener.fileno(), tls, files, self._grace_seconds)
            server = Server(application, config)
            started = _RunningServer(server, connections, asyncio.create_task(server.serve()))
            started.task.add_done_callback(lambda task: self._on_exit(started, task))
            self._servers.append(started)
            try:
                async with asyncio.timeout(START_SECONDS):
                    await server.wait_started()
            except asyncio.CancelledError:
                self._shut_down_in_background(started)
                raise
            except Exception as error:
                await _shut_down(started)
                raise InternalError("the mesh listener did not start: its certificate or key may be damaged") from error
        run_in_batches()
        return started

    def _on_exit(self, server: _RunningServer, task: "asyncio.Task[None]") -> None:
        if server is self._current:
            log.error("mesh_server_ended", port=self.name, exc_info=None if task.cancelled() else task.exception())
            self.ended.set()

    def _shut_down_in_background(self, server: _RunningServer) -> None:
        task = asyncio.create_task(_shut_down(server))
        self._shutting_down.add(task)
        task.add_done_callback(self._shutting_down.discard)


async def _shut_down(running: _RunningServer) -> None:
    # The server sends GOAWAY on every connection, and refuses calls on it from then on. It closes a connection as soon
    # as nothing is open there: streams and connections end only after their clients have had the time to read GOAWAY.
    running.server.shutdown()
    try:
        await asyncio.sleep(STREAM_DRAIN_SECONDS)
        running.connections.drain.end_streams()
        await asyncio.wait([running.task], timeout=CONNECTION_DRAIN_SECONDS - STREAM_DRAIN_SECONDS)
    finally:
        running.connections.drain.end_streams()
        running.connections.drain.end_connections()
    try:
        await running.task
    except Exception:
        log.warning("mesh_server_stopped_late", exc_info=True)


def _max_connections() -> int:
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if most == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, most // CONNECTIONS_SHARE)


def _config(descriptor: int, tls: TlsMaterial | None, opened: ExitStack, grace_seconds: float) -> Config:
    """Return the server's settings. h2corn reads TLS material from files, before it has started; `opened` ends them."""
    files: dict[str, Path | str] = {}
    if tls is not None:
        files["certfile"] = _file_in_memory(tls.chain.encode(), opened)
        files["keyfile"] = _file_in_memory(tls.private_key, opened)
        files["ca_certs"] = _file_in_memory(tls.client_roots.encode(), opened)
        files["cert_reqs"] = "optional"
    return Config(
        bind=(f"fd://{descriptor}",),
        runtime_threads=RUNTIME_THREADS,
        grpc=True,
        access_log=False,
        log_format="json",
        lifespan="off",
        limit_connections=_max_connections(),
        h2_initial_stream_window_size=STREAM_WINDOW_BYTES,
        h2_initial_connection_window_size=CONNECTION_WINDOW_BYTES,
        max_concurrent_streams=MAX_STREAMS_PER_CONNECTION,
        h2_max_header_list_size=MAX_HEADER_LIST_BYTES,
        h2_max_header_block_size=MAX_HEADER_LIST_BYTES,
        limit_request_head_size=MAX_HEADER_LIST_BYTES,
        limit_request_fields=MAX_HEADER_FIELDS,
        max_request_body_size=MAX_HTTP_BODY_BYTES,
        timeout_handshake=HEAD_SECONDS,
        timeout_request_header=HEAD_SECONDS,
        timeout_graceful_shutdown=grace_seconds,
        timeout_keep_alive=IDLE_SECONDS,
        date_header=False,
        **files,  # type: ignore[arg-type]  # the four TLS settings, by name
    )


def _file_in_memory(content: bytes, opened: ExitStack) -> Path:
    """Return the path of a file that is on no disk, so that a full one does not matter, and no key is left on it."""
    try:
        file = opened.enter_context(os.fdopen(os.memfd_create("meshward-tls"), "wb", buffering=0))
        file.write(content)
    except OSError as error:
        raise PreconditionError(f"the mesh listener cannot make a file in memory: {error.strerror}") from error
    return Path(f"/proc/self/fd/{file.fileno()}")
