"""SDS on the Unix socket, by grpclib: its transport gives the socket, and so the user at the other end."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from typing import Any

import structlog
from envoy.service.discovery.v3 import discovery_pb2
from grpclib.config import Configuration
from grpclib.const import Cardinality, Handler
from grpclib.exceptions import GRPCError
from grpclib.protocol import AbstractHandler, H2Protocol
from grpclib.protocol import Stream as Http2Stream
from grpclib.server import Server, Stream

from app.agent.secrets import HeldSecrets
from app.core.errors import MeshwardError, PermissionDeniedError, PreconditionError
from app.envoy.sds import SecretDiscovery
from app.spiffe.principal import Credential, Principal
from app.spiffe.subscribers import Subscribers
from app.telemetry.metrics import Metrics
from app.transport.grpc.context import CallContext
from app.transport.grpc.peer import Peer
from app.transport.grpc.status import code_of

SERVICE = "envoy.service.secret.v3.SecretDiscoveryService"
# Connections that users without access to the identity may hold, all of them together.
MAX_DENIED_CONNECTIONS = 16
# What a connection, and each call on it, may send before it is read; a discovery request is a few hundred bytes.
_WINDOW_BYTES = 65_535

# What every response has to begin with (grpc/doc/PROTOCOL-HTTP2.md, "Responses").
_CONTENT_TYPE = ("content-type", "application/grpc")
_CONFIGURATION = Configuration(http2_connection_window_size=_WINDOW_BYTES, http2_stream_window_size=_WINDOW_BYTES)
# Every client of the socket.
_PEER = Peer("unix", local=True, tls=False)
# struct ucred of unix(7): pid, uid, gid.
_UCRED = struct.Struct("iII")

log = structlog.get_logger()

Rpc = Callable[[AsyncIterator[Any], CallContext], AsyncIterator[Any]]


def check_platform() -> None:
    """Raise PreconditionError on a system that does not report who is connected to a Unix socket."""
    if not hasattr(socket, "SO_PEERCRED"):
        raise PreconditionError("the agent needs Linux: this system does not report which user is at a Unix socket")


class SecretServer(Server):
    """The secret discovery service for the users in `allowed_uids`: all of them get the one SVID.

    grpclib by itself takes any number of connections and leaves them open when it closes. Here a user without access
    gets an error on its first few connections; more of them are closed before a byte is read, so that it cannot exhaust
    the agent's descriptors.
    """

    def __init__(
        self, held: HeldSecrets, metrics: Metrics, allowed_uids: frozenset[int], subscribers: Subscribers
    ) -> None:
        self._held = held
        self._discovery = SecretDiscovery(held, metrics, subscribers)
        self._allowed_uids = allowed_uids
        self._connections: dict[H2Protocol, int] = {}
        super().__init__([self], config=_CONFIGURATION)

    def __mapping__(self) -> dict[str, Handler]:
        """Return the handlers by path, as grpclib asks for them."""
        state = (discovery_pb2.DiscoveryRequest, discovery_pb2.DiscoveryResponse)
        delta = (discovery_pb2.DeltaDiscoveryRequest, discovery_pb2.DeltaDiscoveryResponse)
        stream = partial(self._relay, "StreamSecrets", self._discovery.stream_secrets)
        delta_stream = partial(self._relay, "DeltaSecrets", self._discovery.delta_secrets)
        return {
            f"/{SERVICE}/StreamSecrets": Handler(stream, Cardinality.STREAM_STREAM, *state),
            f"/{SERVICE}/DeltaSecrets": Handler(delta_stream, Cardinality.STREAM_STREAM, *delta),
            f"/{SERVICE}/FetchSecrets": Handler(self._fetch, Cardinality.UNARY_UNARY, *state),
        }

    async def stop(self) -> None:
        """Accept nothing more, end every call, and close every connection."""
        self.close()
        await asyncio.gather(*(handler.wait_closed() for handler in self._handlers))
        for protocol in tuple(self._connections):
            protocol.connection.close()
        await self.wait_closed()

    def connected(self, protocol: H2Protocol, uid: int) -> bool:
        """Register a connection, and return whether it may stay open."""
        denied = sum(other not in self._allowed_uids for other in self._connections.values())
        if uid not in self._allowed_uids and denied >= MAX_DENIED_CONNECTIONS:
            return False
        self._connections[protocol] = uid
        return True

    def disconnected(self, protocol: H2Protocol) -> None:
        """Forget a connection."""
        self._connections.pop(protocol, None)

    def _protocol_factory(self) -> H2Protocol:
        made = super()._protocol_factory()
        return _Connection(self, _Responses(made.handler), made.config, made.h2_config)

    async def _fetch(self, stream: Stream[Any, Any]) -> None:
        with self._admitted(stream, "FetchSecrets") as context:
            request = await stream.recv_message() or discovery_pb2.DiscoveryRequest()
            await stream.send_message(await self._discovery.fetch_secrets(request, context))

    async def _relay(self, method: str, rpc: Rpc, stream: Stream[Any, Any]) -> None:
        with self._admitted(stream, method) as context:
            async with aclosing(rpc(stream, context)) as responses:  # type: ignore[type-var]  # it is an async generator
                async for response in responses:
                    await stream.send_message(response)

    @contextmanager
    def _admitted(self, stream: Stream[Any, Any], method: str) -> Iterator[CallContext]:
        """Check who calls, and turn what the call raises into a gRPC status."""
        try:
            uid = _peer_uid(stream.peer._transport)  # noqa: SLF001 - grpclib has no other way to the connection
            if uid not in self._allowed_uids:
                raise PermissionDeniedError(
                    f"user {uid} may not have this workload's identity: allow it with --allow-uid {uid}"
                )
            identity = self._held.identity
            spiffe_id = identity.svid.spiffe_id if identity else None
            principal = Principal(Credential.LOOPBACK, spiffe_id, address=_PEER.address)
            yield CallContext(f"/{SERVICE}/{method}", _PEER, principal=principal)
        except MeshwardError as error:
            log.info("sds_call_refused", method=method, reason=error.message)
            raise GRPCError(code_of(error), error.message) from error


class _Responses(AbstractHandler):
    """Adds the content type to grpclib's refusals, which Go's clients ignore without it and repeat for ever."""

    def __init__(self, handler: AbstractHandler) -> None:
        self._handler = handler

    def accept(self, stream: Http2Stream, headers: Any, release_stream: Callable[[], None]) -> None:
        send = stream.send_headers

        async def send_headers(headers: Any, end_stream: bool = False) -> None:  # noqa: FBT001, FBT002 - as grpclib's
            names = {name for name, _ in headers}
            if ":status" in names and "content-type" not in names:
                headers = [*headers, _CONTENT_TYPE]
            await send(headers, end_stream=end_stream)

        stream.send_headers = send_headers  # type: ignore[method-assign]
        self._handler.accept(stream, headers, release_stream)

    def cancel(self, stream: Http2Stream) -> None:
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
        self._refused = not self._server.connected(self, _peer_uid(transport))
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


def _peer_uid(transport: asyncio.BaseTransport) -> int:
    """Return the user that opened a connection over a Unix socket, as the kernel recorded it (SO_PEERCRED)."""
    peer = transport.get_extra_info("socket")
    _, uid, _ = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(uid)
