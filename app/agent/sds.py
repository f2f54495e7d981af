"""The RPCs of SDS for the users of this machine that have access to the identity."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import structlog
from envoy.service.discovery.v3 import discovery_pb2
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.server import Stream

from app.agent.peer import peer_uid
from app.agent.secrets import HeldSecrets
from app.core.errors import MeshwardError, PermissionDeniedError
from app.envoy.sds import SecretDiscovery
from app.spiffe.principal import Credential, Principal
from app.telemetry.metrics import Metrics
from app.transport.grpc.context import CallContext
from app.transport.grpc.peer import Peer
from app.transport.grpc.status import code_of

SERVICE = "envoy.service.secret.v3.SecretDiscoveryService"

# Every client of the socket.
_PEER = Peer("unix", local=True, tls=False)

log = structlog.get_logger()

Engine = Callable[[AsyncIterator[Any], CallContext], AsyncIterator[Any]]


class SecretService:
    """The three RPCs of the secret discovery service, for the users with access: all of them get the one SVID."""

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
            yield self._context(stream, f"/{SERVICE}/{method}")
        except MeshwardError as error:
            log.info("sds_call_refused", method=method, reason=error.message)
            raise GRPCError(Status(code_of(error)), error.message) from error

    def allows(self, uid: int) -> bool:
        """Whether a user has access to the identity."""
        return uid in self._allowed_uids

    def _context(self, stream: Stream[Any, Any], method: str) -> CallContext:
        uid = peer_uid(stream.peer._transport)  # noqa: SLF001 - grpclib has no other way to the connection
        if not self.allows(uid):
            raise PermissionDeniedError(
                f"user {uid} may not have this workload's identity: allow it with --allow-uid {uid}"
            )
        identity = self._held.identity
        owner = identity.svid.spiffe_id if identity else None
        principal = Principal(Credential.LOOPBACK, owner, address=_PEER.address)
        return CallContext(method, _PEER, principal=principal)


async def _relay(engine: Engine, stream: Stream[Any, Any], context: CallContext) -> None:
    async with aclosing(engine(stream, context)) as responses:  # type: ignore[type-var]  # it is an async generator
        async for response in responses:
            await stream.send_message(response)
