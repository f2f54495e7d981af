"""Whether a call is admitted: who makes it, how often it may be made, how many streams may be open.

Authentication makes a Principal of what the table demands and what the connection and the metadata prove.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime

from app.core.clock import Clock
from app.core.errors import ResourceExhaustedError, UnauthenticatedError
from app.spiffe.attestation import Attestor, Evidence
from app.spiffe.id import TrustDomain
from app.spiffe.principal import Credential, Principal
from app.transport.grpc.context import CallContext
from app.transport.grpc.peer import Peer
from app.transport.grpc.routes import Authentication, RateLimit

BEARER = "bearer "
# Buckets kept; the one of the caller that has been idle longest is dropped first, which only refills it.
MAX_BUCKETS = 16_384
# Open streams of public services, all callers together and those of one address: each holds 40 KB while it is open.
MAX_PUBLIC_STREAMS = 1024
MAX_PUBLIC_STREAMS_PER_ADDRESS = 64


class Authenticator:
    """Turns a peer and its metadata into a Principal, or refuses.

    `attestors` are asked in their order about a call without a client certificate that needs an identity; the first
    that accepts its evidence decides. `trust_plaintext` widens MESH on the plaintext port from this machine to any
    peer, for those who bind it to a network of their own.
    """

    def __init__(
        self, *, trust_domain: TrustDomain, clock: Clock, attestors: Sequence[Attestor], trust_plaintext: bool = False
    ) -> None:
        self._trust_domain = trust_domain
        self._clock = clock
        self._attestors = tuple(attestors)
        self._trust_plaintext = trust_plaintext

    def by_connection(self, demand: Authentication, peer: Peer) -> Principal | None:
        """Return the caller if the connection alone proves it, None if attestors have to be asked.

        Raises UnauthenticatedError with the reason if neither can be.
        """
        if demand is Authentication.PUBLIC:
            return Principal(Credential.NONE, address=peer.address)
        if peer.svid is not None:
            return self._by_svid(peer)
        if demand is Authentication.IDENTITY:
            return None
        if demand is Authentication.MESH and not peer.tls and (peer.local or self._trust_plaintext):
            return Principal(Credential.LOOPBACK, address=peer.address)
        raise UnauthenticatedError(
            "this call needs a client certificate: an SVID of this trust domain", reason="no_certificate"
        )

    async def attest(self, context: CallContext) -> Principal:
        """Return the caller that the call's metadata proves to one of the attestors.

        Raises UnauthenticatedError with the reason of each if none accepts it.
        """
        evidence, reasons = Evidence(_bearer(context)), []
        for attestor in self._attestors:
            try:
                return replace(await attestor.attest(evidence), address=context.peer.address)
            except UnauthenticatedError as error:
                reasons.append(error.message)
        raise UnauthenticatedError(
            "; ".join(reasons) or "this call needs a client certificate: an SVID",
            reason="no_credential" if evidence.bearer is None else "token_refused",
        )

    def expired(self, not_after: datetime) -> bool:
        """Whether an SVID that is valid until `not_after` has expired."""
        return not_after <= self._clock.now()

    def _by_svid(self, peer: Peer) -> Principal:
        svid = peer.svid
        if svid is None or svid.spiffe_id is None:
            raise UnauthenticatedError(svid.problem if svid else "no client certificate", reason="invalid_svid")
        if svid.spiffe_id.trust_domain != self._trust_domain:
            raise UnauthenticatedError(
                f"SVID is of trust domain {svid.spiffe_id.trust_domain}, not of this one", reason="foreign_svid"
            )
        if self.expired(svid.not_after):
            raise UnauthenticatedError(
                "SVID has expired since the connection was made: connect with a new one", reason="expired_svid"
            )
        return Principal(Credential.SVID, svid.spiffe_id, address=peer.address)


def _bearer(context: CallContext) -> str | None:
    given = context.text("authorization")
    if given is None or not given.lower().startswith(BEARER):
        return None
    return given[len(BEARER) :].strip()


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float


class RateLimiter:
    """Limits how often a caller may start a call: a token bucket for each caller and row of the table.

    `monotonic` gives seconds.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._buckets: OrderedDict[tuple[str, str], _Bucket] = OrderedDict()

    def admit(self, method: str, caller: str, limit: RateLimit) -> None:
        """Take a token of `caller` for `method`. Raises ResourceExhaustedError with the time until the next one."""
        now = self._monotonic()
        bucket = self._bucket((method, caller), limit, now)
        bucket.tokens = min(limit.burst, bucket.tokens + (now - bucket.filled_at) * limit.per_second)
        bucket.filled_at = now
        if bucket.tokens < 1:
            wait = (1 - bucket.tokens) / limit.per_second
            raise ResourceExhaustedError(
                f"{method} is limited to {limit.per_second:g} a second: retry in {wait:.3f} s", reason="rate_limit"
            )
        bucket.tokens -= 1

    def _bucket(self, key: tuple[str, str], limit: RateLimit, now: float) -> _Bucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= MAX_BUCKETS:
                self._buckets.popitem(last=False)
            bucket = self._buckets[key] = _Bucket(limit.burst, now)
        else:
            self._buckets.move_to_end(key)
        return bucket


class StreamLimit:
    """Limits the open streams of the services that any caller may use."""

    def __init__(self, maximum: int = MAX_PUBLIC_STREAMS, per_address: int = MAX_PUBLIC_STREAMS_PER_ADDRESS) -> None:
        self._maximum, self._per_address = maximum, per_address
        self._open: Counter[str] = Counter()

    @contextmanager
    def slot(self, address: str) -> Iterator[None]:
        """Count a stream of an address as open for the length of the block.

        Raises ResourceExhaustedError if too many are open, of this address or of all.
        """
        if self._open[address] >= self._per_address:
            raise ResourceExhaustedError(
                f"{self._per_address} streams of this address are open: close one", reason="stream_limit"
            )
        if self._open.total() >= self._maximum:
            raise ResourceExhaustedError(
                f"{self._maximum} streams of public services are open: retry later", reason="stream_limit"
            )
        self._open[address] += 1
        try:
            yield
        finally:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]
