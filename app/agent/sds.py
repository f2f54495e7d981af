"""SDS on a Unix socket, by grpclib: its transport tells which user is on the other side."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any
from weakref import WeakSet

import structlog
from envoy.service.discovery.v3 import discovery_pb2
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.protocol import H2Protocol
from grpclib.server import Server, Stream

from app.agent.secrets import HeldSecrets
from app.ca.rpc.sds import SecretDiscovery
from app.core.caller import Caller, Credential
from app.core.errors import MeshwardError, PermissionDeniedError, PreconditionError
from app.telemetry.metrics import Metrics
from app.transport.grpc.context import CallContext
from app.transport.grpc.status import code_of

SERVICE = "envoy.service.secret.v3.SecretDiscoveryService"

# struct ucred of unix(7): pid, uid, gid.
_UCRED = struct.Struct("iII")

log = structlog.get_logger()

Engine = Callable[[AsyncIterator[Any], CallContext], AsyncIterator[Any]]


class SecretService:
    """The three RPCs of the secret discovery service, for users that are allowed in: all of them get the one SVID."""

    def __init__(self, held: HeldSecrets, metrics: Metrics, allowed_uids: frozenset[int]) -> None:
        self._held = held
        self._discovery = SecretDiscovery(held, metrics)
        self._allowed_uids = allowed_uids

    def __mapping__(self) -> dict[str, Handler]:
        """Return the handlers by path, as grpclib asks for them."""
        state, increment = discovery_pb2.DiscoveryRequest, discovery_pb2.DeltaDiscoveryRequest
        return {
            f"/{SERVICE}/StreamSecrets": Handler(
                self._stream, Cardinality.STREAM_STREAM, state, discovery_pb2.DiscoveryResponse
            ),
            f"/{SERVICE}/DeltaSecrets": Handler(
                self._delta, Cardinality.STREAM_STREAM, increment, discovery_pb2.DeltaDiscoveryResponse
            ),
            f"/{SERVICE}/FetchSecrets": Handler(
                self._fetch, Cardinality.UNARY_UNARY, state, discovery_pb2.DiscoveryResponse
            ),
        }

    async def _stream(self, stream: Stream[Any, Any]) -> None:
        with self._admitted(stream, "StreamSecrets") as context:
            await _relay(self._discovery.stream_secrets, stream, context)

    async def _delta(self, stream: Stream[Any, Any]) -> None:
        with self._admitted(stream, "DeltaSecrets") as context:
            await _relay(self._discovery.delta_secrets, stream, context)

    async def _fetch(self, stream: Stream[Any, Any]) -> None:
        with self._admitted(stream, "FetchSecrets") as context:
            request = await stream.recv_message() or discovery_pb2.DiscoveryRequest()
            await stream.send_message(await self._discovery.fetch_secrets(request, context))

    @contextmanager
    def _admitted(self, stream: Stream[Any, Any], method: str) -> Iterator[CallContext]:
        """Check who calls, and turn what the call raises into a gRPC status."""
        try:
            yield self._context(peer_uid(stream), f"/{SERVICE}/{method}")
        except MeshwardError as error:
            log.info("sds_call_refused", method=method, reason=error.message)
            raise GRPCError(Status(code_of(error)), error.message) from error

    def _context(self, uid: int, method: str) -> CallContext:
        if uid not in self._allowed_uids:
            raise PermissionDeniedError(
                f"user {uid} may not have this workload's identity: allow it with --allow-uid {uid}"
            )
        identity = self._held.identity
        owner = identity.svid.spiffe_id if identity else None
        return CallContext(method=method, peer="unix", metadata={}, caller=Caller(Credential.LOOPBACK, owner))


def check_platform() -> None:
    """Raise PreconditionError on a system that does not tell who is behind a Unix socket."""
    if not hasattr(socket, "SO_PEERCRED"):
        raise PreconditionError("the agent needs Linux: this system does not tell which user is behind a Unix socket")


def peer_uid(stream: Stream[Any, Any]) -> int:
    """Return the user that opened the connection, as the kernel noted it (SO_PEERCRED)."""
    transport = stream.peer._transport  # noqa: SLF001 - grpclib has no other way to the socket
    peer = transport.get_extra_info("socket")
    _, uid, _ = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(uid)


class SecretServer(Server):
    """grpclib's server, which by itself leaves its connections open when it closes."""

    def __init__(self, service: SecretService) -> None:
        super().__init__([service])
        self._protocols: WeakSet[H2Protocol] = WeakSet()

    def _protocol_factory(self) -> H2Protocol:
        protocol = super()._protocol_factory()
        self._protocols.add(protocol)
        return protocol

    async def stop(self) -> None:
        """Accept nothing more, end every call, and close every connection."""
        self.close()
        await asyncio.gather(*(handler.wait_closed() for handler in self._handlers))
        for protocol in self._protocols:
            protocol.connection.close()
        await self.wait_closed()


async def _relay(engine: Engine, stream: Stream[Any, Any], context: CallContext) -> None:
    async with aclosing(engine(stream, context)) as responses:  # type: ignore[type-var]  # it is an async generator
        async for response in responses:
            await stream.send_message(response)
