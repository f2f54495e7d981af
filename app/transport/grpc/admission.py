"""Whether a call is admitted: who makes it (a Principal), how often it may be made, how many streams may be open."""

import asyncio
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

from app.core.clock import Clock
from app.core.errors import MeshwardError, ResourceExhaustedError, UnauthenticatedError, UnavailableError
from app.core.rates import Buckets, RateLimit
from app.spiffe.attestation import Attestor, Evidence
from app.spiffe.bans import BanLookup, NoBans
from app.spiffe.id import TrustDomain
from app.spiffe.principal import Credential, Principal
from app.transport.grpc.context import CallContext
from app.transport.grpc.peer import Peer, host_of
from app.transport.grpc.routes import Authentication, Rpc

BEARER = "bearer "
FORWARDED = "x-forwarded-client-cert"
STREAM_LIMIT = "stream_limit"
TOKEN_ENDED = "the join token was deleted, or has expired unused"  # noqa: S105 - a message
# Attempts to prove an identity that may fail, each of which looks up a token. Those of an address are many agents that
# start with tokens which have expired. A connection has a few of its own, whatever else its address does: Envoy opens
# two streams at once.
FAILURES_OF_ADDRESS = RateLimit(per_second=20, burst=500)
FAILURES_OF_CONNECTION = RateLimit(per_second=0.1, burst=4)
# Calls of each row with one join token. It is used by the first that gets a certificate; the others are repetitions.
CALLS_OF_TOKEN = RateLimit(per_second=1, burst=20)
# Open streams; each holds 40 KB while it is open. Of a join token: Envoy opens one for each of its two secrets, and
# others before it closes these. Of public services: all callers together, and those of one address.
STREAMS_PER_TOKEN = 4
STREAMS_PER_IDENTITY = 1000
MAX_PUBLIC_STREAMS = 1024
MAX_PUBLIC_STREAMS_PER_ADDRESS = 64


class Authenticator:
    """Turns a peer and its metadata into a Principal, or refuses.

    `attestors` are asked in their order about a call without a client certificate that needs an identity; the first
    that accepts its evidence decides. Callers that `bans` has are refused, whatever proves who they are.
    `trust_plaintext` widens MESH on the plaintext port from this machine to any peer, for those who bind it to a
    network of their own.
    """

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        clock: Clock,
        attestors: Sequence[Attestor],
        bans: BanLookup | None = None,
        trust_plaintext: bool = False,
    ) -> None:
        self.bans: BanLookup = bans or NoBans()
        self._trust_domain = trust_domain
        self._clock = clock
        self._attestors = tuple(attestors)
        self._trust_plaintext = trust_plaintext

    def by_connection(self, demand: Authentication, peer: Peer) -> Principal | None:
        """Return the caller if the connection proves it, None to ask the attestors.

        Raises UnauthenticatedError, and PermissionDeniedError if the caller is banned.
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

    def by_call(self, demand: Authentication, context: CallContext) -> Principal | None:
        """Return and raise as `by_connection`, but ask the attestors if an SVID that proves nothing has a token beside.

        As at istiod: the first proof that holds is believed. So an agent whose SVID expired comes back with its token.
        """
        try:
            return self.by_connection(demand, context.peer)
        except UnauthenticatedError:
            if demand is not Authentication.IDENTITY or _bearer(context) is None:
                raise
            return None

    async def attest(self, context: CallContext) -> Principal:
        """Return the caller that the metadata proves.

        Raises UnauthenticatedError with the messages of the attestors that know this kind of evidence, else of all;
        UnavailableError if one of them cannot find out now, and no other accepts it; PermissionDeniedError if the
        caller is banned.
        """
        evidence, refusals = _evidence(context), list[UnauthenticatedError]()
        away: UnavailableError | None = None
        for attestor in self._attestors:
            try:
                caller = await attestor.attest(evidence)
            except UnauthenticatedError as error:
                refusals.append(error)
                continue
            except UnavailableError as error:
                away = away or error
                continue
            if caller is not None:
                return self._unless_banned(replace(caller, address=context.peer.address))
        if away is not None:
            raise away
        refusals = [error for error in refusals if error.reason] or refusals
        reasons = ["no_credential" if evidence.bearer is None else "token_refused"]
        reasons += [error.reason for error in refusals if error.reason]
        raise UnauthenticatedError(
            "; ".join(error.message for error in refusals) or "this call needs a client certificate: an SVID",
            reason=reasons[-1],
        )

    def refusal(self, caller: Principal) -> MeshwardError | None:
        """Return why a caller that was admitted is refused now, None if it is not."""
        return self.bans.refusal(caller.spiffe_id.principal, caller.serial) if caller.spiffe_id else None

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
        return self._unless_banned(Principal(Credential.SVID, svid.spiffe_id, address=peer.address, serial=svid.serial))

    def _unless_banned(self, caller: Principal) -> Principal:
        if error := self.refusal(caller):
            raise error
        return caller


def _evidence(context: CallContext) -> Evidence:
    forwarded = tuple(value for value in context.metadata.get(FORWARDED, ()) if isinstance(value, str))
    return Evidence(_bearer(context), context.text("clusterid") or "", forwarded, context.peer.host)


def _bearer(context: CallContext) -> str | None:
    given = context.text("authorization")
    if given is None or not given.lower().startswith(BEARER):
        return None
    return given[len(BEARER) :].strip()


class RateLimiter:
    """Limits a caller's calls of a row, and its failed proofs of an identity. `monotonic` gives seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._calls, self._failures = Buckets(monotonic), Buckets(monotonic)

    def admit_call(self, rpc: Rpc, caller: Principal) -> None:
        """Count a call against the limit of the row, or of the join token that it was made with. Raises as `admit`."""
        if caller.token_id is not None:
            self.admit(rpc.path, caller.token_id, CALLS_OF_TOKEN)
        elif rpc.rate_limit is not None:
            self.admit(rpc.path, str(caller.spiffe_id or host_of(caller.address)), rpc.rate_limit)

    def admit(self, method: str, caller: str, limit: RateLimit) -> None:
        """Count a call of `caller`. Raises ResourceExhaustedError, with when to retry, above the limit."""
        if wait := self._calls.take((method, caller), limit):
            raise ResourceExhaustedError(
                f"{method} is limited to {limit.per_second:g} a second: retry in {wait:.3f} s",
                reason="rate_limit",
                retry_seconds=wait,
            )

    @contextmanager
    def attempt(self, peer: Peer) -> Iterator[None]:
        """Count the block as a failed attempt to prove an identity if it raises UnauthenticatedError.

        Raises ResourceExhaustedError, with when to retry, once both the address and the connection have failed too
        often. So a caller never waits for what others at its address do, unless it fails itself.
        """
        charged = self._charge(peer)
        try:
            yield
        except (UnauthenticatedError, ResourceExhaustedError):
            raise
        except Exception:
            self._failures.give_back(charged)
            raise
        self._failures.give_back(charged)

    def _charge(self, peer: Peer) -> Hashable:
        wait = 0.0
        for key, limit in ((peer.host, FAILURES_OF_ADDRESS), (peer.address, FAILURES_OF_CONNECTION)):
            if not (wait := self._failures.take((limit, key), limit)):
                return limit, key
        raise ResourceExhaustedError(
            f"too many attempts to authenticate have failed: retry in {wait:.0f} s",
            reason="failed_attempts",
            retry_seconds=wait,
        )


class OpenStreams:
    """Limits the open streams of each join token, identity or address.

    `settle` ends those of an unused token, `refuse` those of callers that are refused by now.
    """

    def __init__(
        self,
        per_identity: int = STREAMS_PER_IDENTITY,
        per_token: int = STREAMS_PER_TOKEN,
        per_address: int = MAX_PUBLIC_STREAMS_PER_ADDRESS,
        public: int = MAX_PUBLIC_STREAMS,
    ) -> None:
        self._per_identity, self._per_token, self._per_address = per_identity, per_token, per_address
        self._public = public
        self._open: Counter[tuple[str, str]] = Counter()
        self._open_public = 0
        # The streams of callers that have proved an identity; done, with the reason, once a stream has to end.
        self._callers: dict[asyncio.Future[MeshwardError], Principal] = {}
        self._unsettled: dict[str, set[asyncio.Future[MeshwardError]]] = {}

    @property
    def unsettled(self) -> frozenset[str]:
        """The ids of the tokens with open streams that, so far, were neither used nor deleted nor have expired."""
        return frozenset(self._unsettled)

    def settle(self, token_id: str, *, used: bool) -> None:
        """Note what became of a token. Unless it was used, its streams end."""
        streams = self._unsettled.pop(token_id, set())
        if not used:
            for ended in streams:
                _end(ended, UnauthenticatedError(TOKEN_ENDED, reason="token_ended"))

    def refuse(self, refusal: Callable[[Principal], MeshwardError | None]) -> None:
        """End the streams of the callers for whom `refusal` has a reason."""
        for ended, caller in self._callers.items():
            if error := refusal(caller):
                _end(ended, error)

    @contextmanager
    def slot(self, caller: Principal) -> "Iterator[asyncio.Future[MeshwardError] | None]":
        """Count a stream as open for the block; yields what ends it, None for a caller without an identity.

        Raises ResourceExhaustedError.
        """
        kind, name, maximum = self._limit(caller)
        public = caller.spiffe_id is None
        if self._open[kind, name] >= maximum:
            raise ResourceExhaustedError(f"{maximum} streams of this {kind} are open: close one", reason=STREAM_LIMIT)
        if public and self._open_public >= self._public:
            raise ResourceExhaustedError(
                f"{self._public} streams of public services are open: retry later", reason=STREAM_LIMIT
            )
        self._open[kind, name] += 1
        self._open_public += public
        try:
            if public:
                yield None
            else:
                with self._ending(caller) as ended:
                    yield ended
        finally:
            self._open_public -= public
            self._open[kind, name] -= 1
            if not self._open[kind, name]:
                del self._open[kind, name]

    @contextmanager
    def _ending(self, caller: Principal) -> "Iterator[asyncio.Future[MeshwardError]]":
        ended: asyncio.Future[MeshwardError] = asyncio.get_running_loop().create_future()
        self._callers[ended] = caller
        token_id = caller.token_id
        if token_id is not None:
            self._unsettled.setdefault(token_id, set()).add(ended)
        try:
            yield ended
        finally:
            del self._callers[ended]
            if token_id is not None and (streams := self._unsettled.get(token_id)):
                streams.discard(ended)
                if not streams:
                    del self._unsettled[token_id]

    def _limit(self, caller: Principal) -> tuple[str, str, int]:
        if caller.token_id is not None:
            return "join token", caller.token_id, self._per_token
        if caller.spiffe_id is not None:
            return "identity", str(caller.spiffe_id), self._per_identity
        return "address", host_of(caller.address), self._per_address


def _end(stream: "asyncio.Future[MeshwardError]", reason: MeshwardError) -> None:
    if not stream.done():
        stream.set_result(reason)
