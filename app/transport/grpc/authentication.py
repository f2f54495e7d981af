"""Who may make a call: from what the table demands and what the connection and metadata prove, a Principal."""

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache

from app.core.clock import Clock
from app.core.errors import UnauthenticatedError
from app.spiffe.attestation import Attestor, Evidence
from app.spiffe.id import SpiffeId, TrustDomain
from app.spiffe.principal import ANONYMOUS, LOOPBACK, Credential, Principal
from app.transport.grpc.context import CallContext
from app.transport.grpc.peer import PEER_CACHE_SIZE, Peer
from app.transport.grpc.routes import Authentication

BEARER = "bearer "

# Members of an enumeration, looked up once: before Python 3.12 each look-up costs a tenth of a microsecond.
_PUBLIC, _MESH, _IDENTITY = Authentication.PUBLIC, Authentication.MESH, Authentication.IDENTITY


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

    def at_once(self, demand: Authentication, peer: Peer) -> Principal | None:
        """Return the caller if the connection alone proves it, None if attestors have to be asked.

        Raises UnauthenticatedError with the reason if neither can be.
        """
        if demand is _PUBLIC:
            return ANONYMOUS
        if peer.svid is not None:
            return self._by_svid(peer)
        if demand is _IDENTITY:
            return None
        if demand is _MESH and not peer.tls and (peer.local or self._trust_plaintext):
            return LOOPBACK
        raise UnauthenticatedError("this call needs a client certificate: an SVID of this trust domain")

    async def attest(self, context: CallContext) -> Principal:
        """Return the caller that the call's metadata proves to one of the attestors.

        Raises UnauthenticatedError with the reason of each if none accepts it.
        """
        evidence, reasons = Evidence(_bearer(context)), []
        for attestor in self._attestors:
            try:
                return await attestor.attest(evidence)
            except UnauthenticatedError as error:
                reasons.append(error.message)
        raise UnauthenticatedError("; ".join(reasons) or "this call needs a client certificate: an SVID")

    def expired(self, not_after: datetime) -> bool:
        """Whether an SVID that is good until `not_after` no longer is."""
        return not_after <= self._clock.now()

    def _by_svid(self, peer: Peer) -> Principal:
        svid = peer.svid
        if svid is None or svid.spiffe_id is None:
            raise UnauthenticatedError(svid.problem if svid else "no client certificate")
        if svid.spiffe_id.trust_domain != self._trust_domain:
            raise UnauthenticatedError(f"SVID is of trust domain {svid.spiffe_id.trust_domain}, not of this one")
        if self.expired(svid.not_after):
            raise UnauthenticatedError("SVID has expired since the connection was made: connect with a new one")
        return _caller(svid.spiffe_id)


def _bearer(context: CallContext) -> str | None:
    given = context.text("authorization")
    if given is None or not given.lower().startswith(BEARER):
        return None
    return given[len(BEARER) :].strip()


@lru_cache(maxsize=PEER_CACHE_SIZE)
def _caller(spiffe_id: SpiffeId) -> Principal:
    return Principal(Credential.SVID, spiffe_id)
