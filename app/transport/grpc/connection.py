"""The connections of one server: who the peers are, what their calls were admitted as, and how they end."""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime

from app.spiffe.principal import Principal
from app.transport.grpc.asgi import Application, Receive, Scope, Send, ServerTraits
from app.transport.grpc.peer import Peer, read_peer
from app.transport.grpc.routes import Served


def _future() -> "asyncio.Future[None]":
    return asyncio.get_running_loop().create_future()


@dataclass(frozen=True, slots=True)
class Drain:
    """`streams` is done once open streams have to end; `connections` is set once no connection is held open any more.

    Made in the event loop that serves.
    """

    streams: "asyncio.Future[None]" = field(default_factory=_future)
    connections: asyncio.Event = field(default_factory=asyncio.Event)

    def end_streams(self) -> None:
        """Let open streams end."""
        if not self.streams.done():
            self.streams.set_result(None)

    def end_connections(self) -> None:
        """Let the connections be closed that have nothing open."""
        self.connections.set()


@dataclass(frozen=True, slots=True)
class Admission:
    """Who makes the calls of a connection to one row, and until when the connection proves that."""

    row: Served
    principal: Principal
    not_after: datetime | None


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection. `admitted` holds what it alone admits to, by path: rows that are answered at once."""

    peer: Peer
    server: ServerTraits
    drain: Drain
    admitted: dict[str, Admission] = field(default_factory=dict)


class Connections:
    """Knows the connections of one server, and holds each open until `drain` lets it go.

    A server that ends closes a connection with nothing open, under a call that is on its way. One that is held it
    keeps, and refuses the call, which tells the client to make it again elsewhere (RFC 9113, 8.7).
    """

    def __init__(self, server: ServerTraits, drain: Drain) -> None:
        self._server = server
        self._drain = drain
        # By the identity of the `client` object that the scopes of a connection's requests share. It lives, and so its
        # identity is no other's, while the first request does.
        self.known: dict[int, Connection] = {}

    async def first(self, application: Application, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the first request of a connection with `application`, and stay for as long as it is open."""
        named = scope.get("client") is not None
        if not named:
            # Nothing tells such connections apart: each request is taken for one of its own.
            scope = {**scope, "client": ["unix", 0]}
        identity = id(scope["client"])
        self.known[identity] = Connection(read_peer(scope), self._server, self._drain)
        try:
            await application(scope, receive, send)
            if named and self._server.client_of_connection and scope.get("http_version") == "2":
                await self._drain.connections.wait()
        finally:
            del self.known[identity]
