"""The connections of one server: what is known of their peers, and how they and their streams drain."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic
from typing import Any, TypeVar

from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.errors import MeshwardError
from app.spiffe.principal import Principal
from app.transport.grpc.peer import UNIX, Peer, read_peer
from app.transport.grpc.routes import BoundRpc
from app.transport.grpc.status import Code, RpcError

Result = TypeVar("Result")


def _future() -> "asyncio.Future[None]":
    return asyncio.get_running_loop().create_future()


@dataclass(frozen=True, slots=True)
class Drain:
    """One server's drain: `streams` is done once streams have to end, `connections` set once connections may."""

    streams: "asyncio.Future[None]" = field(default_factory=_future)
    connections: asyncio.Event = field(default_factory=asyncio.Event)

    def end_streams(self) -> None:
        """End the open streams."""
        if not self.streams.done():
            self.streams.set_result(None)

    def end_connections(self) -> None:
        """Let the server close its idle connections."""
        self.connections.set()

    async def interrupt(self, work: Awaitable[Result]) -> Result:
        """Return what `work` returns. Raises RpcError UNAVAILABLE if the streams have to end first."""
        return await interrupt(work, self.streams, _draining)


def _draining() -> MeshwardError:
    return RpcError(Code.UNAVAILABLE, "the server drains: connect again")


async def interrupt(
    work: Awaitable[Result], ended: "asyncio.Future[Any]", error: Callable[[], MeshwardError]
) -> Result:
    """Return what `work` returns. Raises what `error` returns if `ended` is done first."""

    def expire(_: object) -> None:
        timeout.reschedule(asyncio.get_running_loop().time())

    try:
        async with asyncio.timeout(None) as timeout:
            ended.add_done_callback(expire)
            try:
                return await work
            finally:
                ended.remove_done_callback(expire)
    except TimeoutError as timed_out:
        if not timeout.expired():
            raise
        raise error() from timed_out


@dataclass(frozen=True, slots=True)
class Admission:
    """The principal that a connection's calls of one row have, until `not_after` if a certificate proves it.

    `ban_changes` is how often bans had changed when it was decided; after the next change it is decided again.
    """

    row: BoundRpc
    principal: Principal
    not_after: datetime | None
    ban_changes: int


@dataclass(slots=True)
class Connection:
    """One connection. `admitted` has, by path, the rows whose calls need no further admission.

    `requests` counts those being answered and `used_at` is when the last of them ended (monotonic seconds), both
    without the calls of admitted rows.
    """

    peer: Peer
    drain: Drain
    admitted: dict[str, Admission] = field(default_factory=dict)
    requests: int = 0
    used_at: float = field(default_factory=monotonic)

    @property
    def proven(self) -> bool:
        """Whether the peer has proven who it is: by an X509-SVID, or by reaching the plaintext port."""
        svid = self.peer.svid
        return svid.spiffe_id is not None if svid is not None else not self.peer.tls

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Count a request for the length of the block."""
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1
            self.used_at = monotonic()


class Connections:
    """The open connections of one server, each of which is held open until the drain ends connections.

    A server that shuts down closes idle connections, even under a call that is on its way. A connection that is held
    open it keeps, and refuses the call there, so that the client sends it again elsewhere (RFC 9113, 8.7).

    The connections of a Unix socket cannot be told apart, for their requests have no `client`: with `unix` all of them
    are one, which is never held open. Whoever may open the socket is the same caller.
    """

    def __init__(self, drain: Drain, *, unix: bool = False) -> None:
        self.drain = drain
        # By the identity of the `client` object that the scopes of a connection's requests share. It stays alive, and
        # its identity unique, as long as the first request does.
        self.by_client: dict[int, Connection] = {}
        if unix:
            self.by_client[id(None)] = Connection(Peer(UNIX, local=True, tls=False), drain)

    async def serve_first(self, application: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the first request of a connection with `application`, and return when the connection may be closed."""
        identified = scope.get("client") is not None
        if not identified:
            # Such connections cannot be told apart: each request is treated as one of its own.
            scope = {**scope, "client": ["unix", 0]}
        identity = id(scope["client"])
        self.by_client[identity] = Connection(read_peer(scope), self.drain)
        try:
            await application(scope, receive, send)
            if identified and scope.get("http_version") == "2":
                await self.drain.connections.wait()
        finally:
            del self.by_client[identity]
