"""Who may make a call: from what the table demands and what the connection and metadata prove, a Principal."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import lru_cache

from app.core.clock import Clock
from app.core.errors import UnauthenticatedError
from app.spiffe.id import SpiffeId, TrustDomain
from app.spiffe.principal import ANONYMOUS, LOOPBACK, Credential, Principal
from app.transport.grpc.context import CallContext
from app.transport.grpc.peer import PEER_CACHE_SIZE, Peer
from app.transport.grpc.routes import Authentication

BEARER = "bearer "
# A join token is a few dozen characters; anything much longer is not looked up.
MAX_TOKEN_LENGTH = 512

# Members of an enumeration, looked up once: before Python 3.12 each look-up costs a tenth of a microsecond.
_PUBLIC, _MESH, _IDENTITY = Authentication.PUBLIC, Authentication.MESH, Authentication.IDENTITY

CheckToken = Callable[[str], Awaitable[Principal]]


class Authenticator:
    """Turns a peer and its metadata into a Principal, or refuses.

    `check_token` returns the caller of a valid, unused join token without consuming it, and raises
    UnauthenticatedError for any other. `trust_plaintext` widens MESH on the plaintext port from this machine to any
    peer, for those who bind it to a network of their own.
    """

    def __init__(
        self, *, trust_domain: TrustDomain, clock: Clock, check_token: CheckToken, trust_plaintext: bool = False
    ) -> None:
        self._trust_domain = trust_domain
        self._clock = clock
        self._check_token = check_token
        self._trust_plaintext = trust_plaintext

    def at_once(self, demand: Authentication, peer: Peer) -> Principal | None:
        """Return the caller if the connection alone proves it, None if a join token has to be looked up.

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

    async def by_token(self, context: CallContext) -> Principal:
        """Return the caller whose join token stands in `authorization`. Raises UnauthenticatedError."""
        given = context.text("authorization")
        if given is None or not given.lower().startswith(BEARER) or len(given) > MAX_TOKEN_LENGTH:
            raise UnauthenticatedError("this call needs an SVID, or a join token as 'authorization: Bearer …'")
        return await self._check_token(given[len(BEARER) :].strip())

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


@lru_cache(maxsize=PEER_CACHE_SIZE)
def _caller(spiffe_id: SpiffeId) -> Principal:
    return Principal(Credential.SVID, spiffe_id)
