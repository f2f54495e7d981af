"""The server on the Unix socket, by grpclib: its transport gives the socket, and so the user at the other end."""

import asyncio
from collections.abc import Callable
from typing import Any

from grpclib.config import Configuration
from grpclib.protocol import AbstractHandler, H2Protocol, Stream
from grpclib.server import Server

from app.agent.peer import peer_uid
from app.agent.sds import SecretService

# Connections that users without access to the identity may hold, all of them together.
MAX_DENIED_CONNECTIONS = 16
# What a connection, and each call on it, may send before it is read; a discovery request is a few hundred bytes.
_WINDOW_BYTES = 65_535

# What every response has to begin with (grpc/doc/PROTOCOL-HTTP2.md, "Responses").
_CONTENT_TYPE = ("content-type", "application/grpc")
_CONFIGURATION = Configuration(http2_connection_window_size=_WINDOW_BYTES, http2_stream_window_size=_WINDOW_BYTES)


class SecretServer(Server):
    """grpclib's server, which by itself takes any number of connections and leaves them open when it closes.

    A user without access gets an error on its first few connections; more of them are closed before a byte is read, so
    that it cannot exhaust the agent's descriptors.
    """

    def __init__(self, service: SecretService) -> None:
        super().__init__([service], config=_CONFIGURATION)
        self._service = service
        self._connections: dict[H2Protocol, int] = {}

    async def stop(self) -> None:
        """Accept nothing more, end every call, and close every connection."""
        self.close()
        await asyncio.gather(*(handler.wait_closed() for handler in self._handlers))
        for protocol in tuple(self._connections):
            protocol.connection.close()
        await self.wait_closed()

    def connected(self, protocol: H2Protocol, uid: int) -> bool:
        """Register a connection, and return whether it may stay open."""
        denied = sum(not self._service.allows(other) for other in self._connections.values())
        if not self._service.allows(uid) and denied >= MAX_DENIED_CONNECTIONS:
            return False
        self._connections[protocol] = uid
        return True

    def disconnected(self, protocol: H2Protocol) -> None:
        """Forget a connection."""
        self._connections.pop(protocol, None)

    def _protocol_factory(self) -> H2Protocol:
        made = super()._protocol_factory()
        return _Connection(self, _Responses(made.handler), made.config, made.h2_config)


class _Responses(AbstractHandler):
    """Adds the content type to the refusals of grpclib's handler, without which Go's clients take none for an answer.

    They would try again for ever where a method is not served.
    """

    def __init__(self, handler: AbstractHandler) -> None:
        self._handler = handler

    def accept(self, stream: Stream, headers: Any, release_stream: Callable[[], None]) -> None:
        send = stream.send_headers

        async def send_headers(headers: Any, end_stream: bool = False) -> None:  # noqa: FBT001, FBT002 - as grpclib's
            names = {name for name, _ in headers}
            if ":status" in names and "content-type" not in names:
                headers = [*headers, _CONTENT_TYPE]
            await send(headers, end_stream=end_stream)

        stream.send_headers = send_headers  # type: ignore[method-assign]
        self._handler.accept(stream, headers, release_stream)

    def cancel(self, stream: Stream) -> None:
        self._handler.cancel(stream)

    def close(self) -> None:
        self._handler.close()


class _Connection(H2Protocol):
    """grpclib's side of a connection, which the server may refuse before a byte is read."""

    def __init__(self, server: SecretServer, handler: Any, config: Any, h2_config: Any) -> None:
        super().__init__(handler, config, h2_config)
        self._server = server
        self._refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._refused = not self._server.connected(self, peer_uid(transport))
        if self._refused:
            transport.close()
        else:
            super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if not self._refused:
            super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._server.disconnected(self)
        if not self._refused:
            super().connection_lost(exc)
