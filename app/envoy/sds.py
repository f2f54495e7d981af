"""Envoy's secret discovery service (SDS): the xDS exchange with a workload's secrets as its resources."""

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache, partial
from typing import Any, ClassVar, Protocol

import structlog
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2

from app.core.errors import InternalError, InvalidInputError, PermissionDeniedError, UnauthenticatedError, Violation
from app.spiffe.bundle import TrustBundle
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Principal
from app.spiffe.subscribers import Subscribers
from app.spiffe.x509_svid import WorkloadSvid
from app.telemetry.metrics import Metrics
from app.transport.grpc.context import CallContext
from app.transport.xds import stream
from app.transport.xds.delta import DeltaExchange
from app.transport.xds.exchange import Exchange, Reply
from app.transport.xds.resources import WILDCARD, Resource, content_version
from app.transport.xds.state_of_the_world import StateOfTheWorldExchange

SECRET_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 - a type's name
SVID_NAME = "default"
BUNDLE_NAME = "ROOTCA"
# For agents: the ids of signing authorities whose SVIDs are to be replaced, one on each line.
WITHDRAWN_NAME = "WITHDRAWN"
WILDCARD_NAMES = frozenset({SVID_NAME, BUNDLE_NAME})

# A caller has four names and the wildcard; the rest is room for repetition. Bounds the work of one request.
MAX_NAMES = 16
# Trust bundles that are encoded once for all streams: the current one and the one before, by either name.
CACHED_BUNDLES = 4
# How much of a name that was refused is repeated to the caller.
MAX_QUOTED = 128
# How much of a peer's own text (its node id, its error) goes into a log line.
MAX_LOGGED = 512

log = structlog.get_logger()


class SecretSession(Protocol):
    """The secrets of one SDS stream."""

    async def svid(self) -> WorkloadSvid:
        """Return the caller's current SVID, making it on first use. Raises UnauthenticatedError or UnavailableError."""

    async def bundle(self) -> TrustBundle:
        """Return the current trust bundle."""

    async def wait_for_change(self) -> None:
        """Return once a secret that was returned is to be replaced, and again until the new one is asked for."""


class SecretSource(Protocol):
    """Where SDS takes secrets from: the CA itself in the control plane, the held SVID in the agent."""

    def open(self, caller: Principal, *, once: bool = False) -> SecretSession:
        """Return the session of a stream that `caller` opened, `once` of one call."""


class SecretKind(Enum):
    """The secret behind a name."""

    SVID = "svid"
    BUNDLE = "bundle"
    WITHDRAWN = "withdrawn"


# The names that every caller has.
_KINDS = {
    SVID_NAME: SecretKind.SVID,
    BUNDLE_NAME: SecretKind.BUNDLE,
    WITHDRAWN_NAME: SecretKind.WITHDRAWN,
}


@dataclass(frozen=True, slots=True)
class SecretCatalog:
    """The secrets that `owner`, and no other caller, may subscribe to. An implementation of `Catalog`."""

    type_url: ClassVar = SECRET_TYPE
    max_names: ClassVar = MAX_NAMES
    owner: SpiffeId

    def check(self, name: str) -> None:
        """Raise InvalidInputError, listing the names that are available, if `name` is not one of the owner's."""
        self.kind(name)

    def kind(self, name: str) -> SecretKind:
        """Return which secret is behind `name`. Raises as `check` does."""
        kind = _KINDS.get(name)
        if kind is not None:
            return kind
        if name == str(self.owner):
            return SecretKind.SVID
        if name == str(self.owner.trust_domain.id):
            return SecretKind.BUNDLE
        raise InvalidInputError(
            f"there is no secret {_quoted(name)} for {self.owner}: ask for {SVID_NAME} or {self.owner} (its SVID), "
            f"{BUNDLE_NAME} or {self.owner.trust_domain.id} (the trust bundle)",
            Violation("resource_names", f"unknown secret {_quoted(name)}"),
        )

    def kinds(self, subscribed: frozenset[str]) -> dict[str, SecretKind]:
        """Return which secret is behind each name of a subscription; `*` stands for one name of each secret."""
        names = subscribed - {WILDCARD} | WILDCARD_NAMES if WILDCARD in subscribed else subscribed
        return {name: self.kind(name) for name in names}

    def bundle_names(self, subscribed: frozenset[str]) -> list[str]:
        """Return the names of the trust bundle in a subscription."""
        return [name for name, kind in self.kinds(subscribed).items() if kind is SecretKind.BUNDLE]


def svid_resource(name: str, svid: WorkloadSvid) -> Resource:
    """Return the `tls_certificate` secret; its version is made without the key, which must not show in a log."""
    chain = "".join(svid.chain).encode()
    secret = secret_pb2.Secret(name=name)
    secret.tls_certificate.certificate_chain.inline_bytes = chain
    secret.tls_certificate.private_key.inline_bytes = svid.private_key
    return Resource(name, content_version([chain]), _packed(secret))


@lru_cache(maxsize=CACHED_BUNDLES)
def bundle_resource(name: str, bundle: TrustBundle) -> Resource:
    """Return the `validation_context` secret of a trust bundle, with its revocation lists.

    Raises InternalError if that has no root: Envoy would accept every certificate.
    """
    if not bundle.roots:
        raise InternalError("a trust bundle without roots is held back")
    secret = secret_pb2.Secret(name=name)
    secret.validation_context.trusted_ca.inline_bytes = "".join(bundle.roots).encode()
    if bundle.crls:
        secret.validation_context.crl.inline_bytes = "".join(bundle.crls).encode()
        # The lists are those of the signing authorities. Envoy would want one of each root as well.
        secret.validation_context.only_verify_leaf_cert_crl = True
    return Resource(name, bundle.version, _packed(secret))


def withdrawn_resource(name: str, bundle: TrustBundle) -> Resource:
    """Return the `generic_secret` with the signing authorities whose SVIDs are to be replaced."""
    text = "".join(f"{authority}\n" for authority in bundle.withdrawn).encode()
    secret = secret_pb2.Secret(name=name)
    secret.generic_secret.secret.inline_bytes = text
    return Resource(name, content_version([text]), _packed(secret))


def _packed(secret: Any) -> any_pb2.Any:
    return any_pb2.Any(type_url=SECRET_TYPE, value=secret.SerializeToString(deterministic=True))


def _quoted(name: str) -> str:
    return repr(name if len(name) <= MAX_QUOTED else name[:MAX_QUOTED] + "…")


class SecretDiscovery:
    """The handlers of `envoy.service.secret.v3.SecretDiscoveryService`.

    The transport has authenticated the caller; a caller without a SPIFFE ID gets UnauthenticatedError. A private key is
    never sent over plaintext to another machine: that is a PermissionDeniedError.
    """

    def __init__(self, source: SecretSource, metrics: Metrics, subscribers: Subscribers) -> None:
        """Take where the secrets come from, and where to keep what clients hold."""
        self._source = source
        self._metrics = metrics
        self._subscribers = subscribers

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
        return await stream.fetch(_CallerSecrets(self._source, context, once=True), request)

    def _run(self, variant: type[Exchange], requests: AsyncIterator[Any], context: CallContext) -> AsyncIterator[Any]:
        source = _CallerSecrets(self._source, context)
        observer = _observe(self._metrics, self._subscribers, source.catalog, context)
        return stream.run_stream(variant, {SECRET_TYPE: source}, requests, observer)


class _CallerSecrets:
    """The secrets of one caller. An implementation of `ResourceSource`.

    A secret that was asked for once is asked for again after each change, subscribed or not: a session reports a change
    until the new secret has been asked for.
    """

    __slots__ = ("_asked", "_context", "_session", "catalog")

    def __init__(self, source: SecretSource, context: CallContext, *, once: bool = False) -> None:
        if context.principal.spiffe_id is None:
            raise UnauthenticatedError("secrets are for callers with a SPIFFE ID: show an SVID or a join token")
        self.catalog = SecretCatalog(context.principal.spiffe_id)
        self._context = context
        self._session = source.open(context.principal, once=once)
        self._asked: set[SecretKind] = set()

    async def resources(self, subscribed: frozenset[str]) -> Mapping[str, Resource]:
        kinds = self.catalog.kinds(subscribed)
        self._asked.update(kinds.values())
        resource: dict[SecretKind, Callable[[str], Resource]] = {}
        if SecretKind.SVID in self._asked:
            if not self._context.peer.private:
                raise PermissionDeniedError(
                    f"a private key is not sent to {self._context.peer.address} over plaintext: use the TLS port, or "
                    "ask from this machine"
                )
            resource[SecretKind.SVID] = partial(svid_resource, svid=await self._session.svid())
        if not self._asked.isdisjoint({SecretKind.BUNDLE, SecretKind.WITHDRAWN}):
            bundle = await self._session.bundle()
            resource[SecretKind.BUNDLE] = partial(bundle_resource, bundle=bundle)
            resource[SecretKind.WITHDRAWN] = partial(withdrawn_resource, bundle=bundle)
        return {name: resource[kind](name) for name, kind in kinds.items()}

    def wait_for_change(self) -> Coroutine[Any, Any, None]:
        return self._session.wait_for_change()


@contextmanager
def _observe(
    metrics: Metrics, subscribers: Subscribers, catalog: SecretCatalog, context: CallContext
) -> Iterator[Callable[[Any, Reply, Exchange], None]]:
    """Count a stream and the replies on it, keep what it holds, and log each secret that its sidecar refuses."""

    def received(request: Any, reply: Reply, exchange: Exchange) -> None:
        subscriber.node = request.node.id[:MAX_LOGGED] or subscriber.node  # only the first request has it
        if reply is not Reply.REQUEST:
            metrics.sds_replies.add((reply.value,))
        problem = subscriber.problem
        if reply is Reply.ACK:
            problem = ""
        if reply is Reply.NACK:
            problem = request.error_detail.message[:MAX_LOGGED]
            log.warning(
                "sds_secret_refused",
                method=context.method,
                peer=context.peer.address,
                spiffe_id=str(catalog.owner),
                node=subscriber.node,
                error=problem,
            )
        names = catalog.bundle_names(exchange.wanted)
        held = next((exchange.accepted.get(name) for name in names), None)
        subscribers.answered(subscriber, subscribed=bool(names), bundle=held, problem=problem)

    metrics.sds_streams.add((), 1)
    try:
        with subscribers.opened(catalog.owner, context.peer.address) as subscriber:
            yield received
    finally:
        metrics.sds_streams.add((), -1)
