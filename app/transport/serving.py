"""Serving the mesh application with h2corn, and replacing its certificate without losing a call.

A certificate is replaced by starting a second server on the same socket: it takes the new connections, while the first
one finishes its calls in flight, ends its open streams with OK so that clients open them again, and stops. A call that
is sent in the moment in which its connection is given notice is refused, unseen, and made again by its client.
"""

import asyncio
import resource
import socket
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from h2corn import Config, Server

from app.core.errors import InternalError, PreconditionError
from app.transport.grpc.connection import Drain
from app.transport.mesh import MeshApplication

# Open streams that one Envoy may hold: its concurrent Checks over one connection, and a few subscriptions.
MAX_STREAMS_PER_CONNECTION = 1024
# Metadata of a call; what a Check is about travels in the message.
MAX_HEADER_LIST_BYTES = 64 * 1024
MAX_HEADER_FIELDS = 200
# Body of an HTTP check; Envoy sends at most what its own configuration buffers.
MAX_HTTP_BODY_BYTES = 8 * 1024 * 1024
# Threads that read and write for the one that runs Python: with a second one a call costs a quarter more, in wake-ups.
RUNTIME_THREADS = 1
# Connections to one port: each costs a descriptor, which the database, the admin API and the certificates need as well.
# A quarter of those that the process may have, because two servers share a port while a certificate is replaced.
MAX_CONNECTIONS = 16_384
CONNECTIONS_SHARE = 4
# Time that a server which was replaced has for its calls in flight.
RETIRE_SECONDS = 30.0
# How long open streams outlive the notice that their server ends: a round trip, with room for a busy machine.
NOTICE_SECONDS = 0.25
# How long connections outlive it whose clients do not close them by themselves, as clients of gRPC do.
LEAVE_SECONDS = 1.0
# How long a connection may have nothing open. Clients close theirs sooner (gRPC's after 30 minutes, Envoy after an
# hour), and only they can do so without losing a call that is on its way.
IDLE_SECONDS = 7200.0
START_SECONDS = 10.0
# Time that a connection has for its handshake and preface, and a request for its headers.
HEAD_SECONDS = 5.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """What a TLS listener shows and trusts, PEM: its chain, leaf first, its key, the roots of client certificates."""

    chain: str
    private_key: bytes = field(repr=False)
    client_roots: str


@dataclass(slots=True)
class _Generation:
    """One h2corn server on the listener, the end of what is open on it, and the task that runs it."""

    server: Server
    drain: Drain
    task: "asyncio.Task[None]"


class MeshListener:
    """One mesh port: a listening socket and the server that answers on it. Owns the socket.

    `ended` is set when the server in use ends by itself; nobody is answered on the port from then on.
    """

    def __init__(
        self, listener: socket.socket, application: MeshApplication, *, grace_seconds: float = RETIRE_SECONDS
    ) -> None:
        self._listener = listener
        self._grace_seconds = grace_seconds
        self._application = application
        self.ended = asyncio.Event()
        self._current: _Generation | None = None
        self._retiring: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The port that the socket is bound to."""
        port: int = self._listener.getsockname()[1]
        return port

    async def start(self, tls: TlsMaterial | None = None) -> None:
        """Start to serve, in plaintext without `tls`.

        Raises InternalError if the server does not come up, PreconditionError if it has no place for temporary files.
        """
        self._current = await self._launch(tls)

    async def rotate(self, tls: TlsMaterial) -> None:
        """Serve new connections with `tls` and let those in flight finish with what they have."""
        previous, self._current = self._current, await self._launch(tls)
        if previous is not None:
            self._retire_later(previous)

    async def stop(self) -> None:
        """Take no new connections, end open streams, finish the calls in flight within the grace, and close."""
        current, self._current = self._current, None
        if current is not None:
            await _retire(current)
        if self._retiring:
            await asyncio.wait(self._retiring)
        self._listener.close()

    async def _launch(self, tls: TlsMaterial | None) -> _Generation:
        try:
            with tempfile.TemporaryDirectory(prefix="meshward-tls-") as directory:
                return await self._launch_from(Path(directory), tls)
        except OSError as error:
            raise PreconditionError(
                f"the mesh listener needs a directory for temporary files, which cannot be used: {error}"
            ) from error

    async def _launch_from(self, directory: Path, tls: TlsMaterial | None) -> _Generation:
        application, drain = self._application.generation()
        server = Server(application, _config(self._listener.fileno(), tls, directory, self._grace_seconds))
        generation = _Generation(server, drain, asyncio.create_task(server.serve()))
        generation.task.add_done_callback(lambda task: self._note_end(generation, task))
        try:
            async with asyncio.timeout(START_SECONDS):
                await server.wait_started()
        except asyncio.CancelledError:
            self._retire_later(generation)
            raise
        except Exception as error:
            await _retire(generation)
            raise InternalError("the mesh listener did not start: its certificate or key may be damaged") from error
        return generation

    def _note_end(self, generation: _Generation, task: "asyncio.Task[None]") -> None:
        if generation is self._current:
            log.error("mesh_server_ended", port=self.port, exc_info=None if task.cancelled() else task.exception())
            self.ended.set()

    def _retire_later(self, generation: _Generation) -> None:
        retiring = asyncio.create_task(_retire(generation))
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)


async def _retire(generation: _Generation) -> None:
    # The server says GOAWAY to every connection, and refuses what is called on it from then on. It closes a connection
    # once nothing is open there, so both are ended after their clients have had the time to read that and to go.
    generation.server.shutdown()
    try:
        await asyncio.sleep(NOTICE_SECONDS)
        generation.drain.end_streams()
        await asyncio.wait([generation.task], timeout=LEAVE_SECONDS - NOTICE_SECONDS)
    finally:
        generation.drain.end_streams()
        generation.drain.end_connections()
    try:
        await generation.task
    except Exception:
        log.warning("mesh_server_stopped_late", exc_info=True)


def _max_connections() -> int:
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if most == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, most // CONNECTIONS_SHARE)


def _config(descriptor: int, tls: TlsMaterial | None, directory: Path, grace_seconds: float) -> Config:
    """Return the server's settings; h2corn takes TLS material from files, read before it has started."""
    files: dict[str, Path | str] = {}
    if tls is not None:
        for name, content in (
            ("certfile", tls.chain.encode()),
            ("keyfile", tls.private_key),
            ("ca_certs", tls.client_roots.encode()),
        ):
            path = directory / name
            path.touch(mode=0o600)
            path.write_bytes(content)
            files[name] = path
        files["cert_reqs"] = "optional"
    return Config(
        bind=(f"fd://{descriptor}",),
        runtime_threads=RUNTIME_THREADS,
        grpc=True,
        access_log=False,
        log_format="json",
        lifespan="off",
        limit_connections=_max_connections(),
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
