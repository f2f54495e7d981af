"""Secret discovery: the driver that runs an exchange over a stream, its secrets coming from a session.

It knows nothing of how messages travel: the mesh ports and the agent's Unix socket run the same three handlers.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import structlog
from envoy.service.discovery.v3 import discovery_pb2

from app.ca.ports import SecretSession, SecretSource
from app.ca.rpc.privacy import is_private
from app.ca.rpc.sds_delta import DeltaExchange
from app.ca.rpc.sds_exchange import Exchange, Reply
from app.ca.rpc.sds_names import Catalog, SecretKind
from app.ca.rpc.sds_resources import SecretResource, bundle_resource, svid_resource
from app.ca.rpc.sds_stream import StreamExchange
from app.core.errors import PermissionDeniedError, UnauthenticatedError
from app.telemetry.metrics import Metrics
from app.transport.grpc.context import CallContext

# How much of a peer's own text (its node id, its error) goes into a log line.
MAX_LOGGED = 512
# Random bytes that set the nonces of one stream apart from those of another.
STREAM_NAME_BYTES = 6

Variant = TypeVar("Variant", bound=Exchange)

log = structlog.get_logger()


class SecretDiscovery:
    """The handlers of `envoy.service.secret.v3.SecretDiscoveryService`.

    The transport has authenticated the caller; a caller without a SPIFFE ID gets UnauthenticatedError. A private key is
    never sent over plaintext to another machine: that is a PermissionDeniedError.
    """

    def __init__(self, source: SecretSource, metrics: Metrics) -> None:
        self._source = source
        self._metrics = metrics
        self._open = 0

    def stream_secrets(
        self, requests: AsyncIterator[Any], context: CallContext
    ) -> AsyncIterator[discovery_pb2.DiscoveryResponse]:
        """Yield DiscoveryResponses for a stream of DiscoveryRequests, and another whenever a secret is replaced."""
        return self._run(StreamExchange, requests, context)

    def delta_secrets(
        self, requests: AsyncIterator[Any], context: CallContext
    ) -> AsyncIterator[discovery_pb2.DeltaDiscoveryResponse]:
        """Yield DeltaDiscoveryResponses for a stream of DeltaDiscoveryRequests, and another per replaced secret."""
        return self._run(DeltaExchange, requests, context)

    async def fetch_secrets(self, request: Any, context: CallContext) -> discovery_pb2.DiscoveryResponse:
        """Return the secrets that one DiscoveryRequest names, both of them if it names none."""
        exchange, _ = StreamExchange(_catalog(context), _stream_name()).receive(request)
        holder = _Holder(exchange.catalog, self._source.open(context.principal), context)
        _, response = exchange.offer(await holder.collect(exchange.wanted))
        return response or discovery_pb2.DiscoveryResponse()

    async def _run(
        self, variant: type[Variant], requests: AsyncIterator[Any], context: CallContext
    ) -> AsyncIterator[Any]:
        catalog = _catalog(context)
        exchange = variant(catalog, _stream_name())
        holder = _Holder(catalog, self._source.open(context.principal), context)
        peer = log.bind(method=context.method, peer=context.peer, spiffe_id=str(catalog.owner))
        reading = asyncio.ensure_future(_next(requests))
        changing: asyncio.Future[None] | None = None
        self._count(+1)
        try:
            while True:
                await asyncio.wait(filter(None, (reading, changing)), return_when=asyncio.FIRST_COMPLETED)
                if reading.done():
                    request = reading.result()
                    if request is None:
                        return
                    exchange, reply = exchange.receive(request)
                    peer = self._note(reply, request, peer)
                    reading = asyncio.ensure_future(_next(requests))
                    if not exchange.due:
                        continue
                elif changing is not None:
                    changing.result()
                await _cancel(changing)
                exchange, response = exchange.offer(await holder.collect(exchange.wanted))
                changing = asyncio.ensure_future(holder.session.wait_for_change())
                if response is not None:
                    yield response
        finally:
            await _cancel(reading)
            await _cancel(changing)
            self._count(-1)

    def _note(self, reply: Reply, request: Any, peer: Any) -> Any:
        if request.node.id:  # told in the first message alone
            peer = peer.bind(node=request.node.id[:MAX_LOGGED])
        if reply is not Reply.REQUEST:
            self._metrics.sds_replies.add((reply.value,))
        if reply is Reply.NACK:
            peer.warning("sds_secret_refused", error=request.error_detail.message[:MAX_LOGGED])
        return peer

    def _count(self, change: int) -> None:
        self._open += change
        self._metrics.sds_streams.set((), self._open)


class _Holder:
    """The session of one stream, and which of its secrets were asked for so far.

    A secret that was asked for once is asked for again after each change, subscribed or not: a session says that it
    changed until it has been asked.
    """

    def __init__(self, catalog: Catalog, session: SecretSession, context: CallContext) -> None:
        self.catalog = catalog
        self.session = session
        self._context = context
        self._kinds: set[SecretKind] = set()

    async def collect(self, names: frozenset[str]) -> dict[str, SecretResource]:
        """Return the current secret behind each name."""
        kinds = {name: self.catalog.kind(name) for name in names}
        self._kinds.update(kinds.values())
        resources: dict[str, SecretResource] = {}
        if SecretKind.SVID in self._kinds:
            _check_private(self._context)
            svid = await self.session.svid()
            resources.update(
                (name, svid_resource(name, svid)) for name, kind in kinds.items() if kind is SecretKind.SVID
            )
        if SecretKind.BUNDLE in self._kinds:
            bundle = await self.session.bundle()
            resources.update(
                (name, bundle_resource(name, bundle)) for name, kind in kinds.items() if kind is SecretKind.BUNDLE
            )
        return resources


def _catalog(context: CallContext) -> Catalog:
    if context.principal.spiffe_id is None:
        raise UnauthenticatedError("secrets are for callers with a SPIFFE ID: show an SVID or a join token")
    return Catalog(context.principal.spiffe_id)


def _check_private(context: CallContext) -> None:
    if not is_private(context):
        raise PermissionDeniedError(
            f"a private key is not sent to {context.peer} over plaintext: use the TLS port, or ask from this machine"
        )


def _stream_name() -> str:
    return secrets.token_hex(STREAM_NAME_BYTES)


async def _next(requests: AsyncIterator[Any]) -> Any | None:
    return await anext(requests, None)


async def _cancel(task: asyncio.Future[Any] | None) -> None:
    """End a task that this stream started; what it was about to say concerns nobody any more."""
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
