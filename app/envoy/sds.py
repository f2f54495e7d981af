"""Envoy's secret discovery service (SDS): the xDS exchange with a workload's secrets as its resources."""

from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any

import structlog
from envoy.service.discovery.v3 import discovery_pb2

from app.core.errors import PermissionDeniedError, UnauthenticatedError
from app.envoy.secrets import (
    SECRET_TYPE,
    SecretCatalog,
    SecretKind,
    SecretSource,
    bundle_resource,
    svid_resource,
)
from app.telemetry.metrics import Metrics
from app.transport.grpc.context import CallContext
from app.transport.xds import stream
from app.transport.xds.delta import DeltaExchange
from app.transport.xds.exchange import Exchange, Reply
from app.transport.xds.resources import Resource
from app.transport.xds.state_of_the_world import StateOfTheWorldExchange

# How much of a peer's own text (its node id, its error) goes into a log line.
MAX_LOGGED = 512

log = structlog.get_logger()


class SecretDiscovery:
    """The handlers of `envoy.service.secret.v3.SecretDiscoveryService`.

    The transport has authenticated the caller; a caller without a SPIFFE ID gets UnauthenticatedError. A private key is
    never sent over plaintext to another machine: that is a PermissionDeniedError.
    """

    def __init__(self, source: SecretSource, metrics: Metrics) -> None:
        self._source = source
        self._metrics = metrics

    def stream_secrets(
        self, requests: AsyncIterator[Any], context: CallContext
    ) -> AsyncIterator[discovery_pb2.DiscoveryResponse]:
        """Yield DiscoveryResponses for a stream of DiscoveryRequests, and another whenever a secret is replaced."""
        return self._run(StateOfTheWorldExchange, requests, context)

    def delta_secrets(
        self, requests: AsyncIterator[Any], context: CallContext
    ) -> AsyncIterator[discovery_pb2.DeltaDiscoveryResponse]:
        """Yield DeltaDiscoveryResponses for a stream of DeltaDiscoveryRequests, and another per replaced secret."""
        return self._run(DeltaExchange, requests, context)

    async def fetch_secrets(self, request: Any, context: CallContext) -> discovery_pb2.DiscoveryResponse:
        """Return the secrets that one DiscoveryRequest names, both of them if it names none."""
        return await stream.fetch(_CallerSecrets(self._source, context), request)

    def _run(self, variant: type[Exchange], requests: AsyncIterator[Any], context: CallContext) -> AsyncIterator[Any]:
        sources = {SECRET_TYPE: _CallerSecrets(self._source, context)}
        return stream.run_stream(variant, sources, requests, _StreamReport(self._metrics, context))


class _CallerSecrets:
    """The secrets of one caller. An implementation of `ResourceSource`.

    A secret that was asked for once is asked for again after each change, subscribed or not: a session reports a change
    until the new secret has been asked for.
    """

    __slots__ = ("_asked", "_context", "_session", "catalog")

    def __init__(self, source: SecretSource, context: CallContext) -> None:
        if context.principal.spiffe_id is None:
            raise UnauthenticatedError("secrets are for callers with a SPIFFE ID: show an SVID or a join token")
        self.catalog = SecretCatalog(context.principal.spiffe_id)
        self._context = context
        self._session = source.open(context.principal)
        self._asked: set[SecretKind] = set()

    async def resources(self, subscribed: frozenset[str]) -> Mapping[str, Resource]:
        """Return the current secret behind each name."""
        kinds = self.catalog.kinds(subscribed)
        self._asked.update(kinds.values())
        resources: dict[str, Resource] = {}
        if SecretKind.SVID in self._asked:
            self._check_private()
            svid = await self._session.svid()
            resources |= {name: svid_resource(name, svid) for name, kind in kinds.items() if kind is SecretKind.SVID}
        if SecretKind.BUNDLE in self._asked:
            bundle = await self._session.bundle()
            resources |= {
                name: bundle_resource(name, bundle) for name, kind in kinds.items() if kind is SecretKind.BUNDLE
            }
        return resources

    def wait_for_change(self) -> Coroutine[Any, Any, None]:
        """Return once a secret that was asked for has been, or is due to be, replaced."""
        return self._session.wait_for_change()

    def _check_private(self) -> None:
        if not self._context.peer.private:
            raise PermissionDeniedError(
                f"a private key is not sent to {self._context.peer.address} over plaintext: use the TLS port, or ask "
                "from this machine"
            )


class _StreamReport:
    """Counts a stream and its replies, and logs each secret that its sidecar refuses. A `StreamObserver`."""

    __slots__ = ("_context", "_metrics", "_node")

    def __init__(self, metrics: Metrics, context: CallContext) -> None:
        self._metrics = metrics
        self._context = context
        self._node = ""

    def opened(self) -> None:
        """Count the stream as open."""
        self._metrics.sds_streams.add((), 1)

    def received(self, request: Any, reply: Reply) -> None:
        """Count a reply, and log it if it is a refusal."""
        self._node = request.node.id[:MAX_LOGGED] or self._node  # only the first request has it
        if reply is not Reply.REQUEST:
            self._metrics.sds_replies.add((reply.value,))
        if reply is Reply.NACK:
            log.warning(
                "sds_secret_refused",
                method=self._context.method,
                peer=self._context.peer.address,
                spiffe_id=str(self._context.principal.spiffe_id),
                node=self._node,
                error=request.error_detail.message[:MAX_LOGGED],
            )

    def closed(self) -> None:
        """Count the stream as closed."""
        self._metrics.sds_streams.add((), -1)
