"""JWTs of service accounts, as Kubernetes and OIDC issuers sign them: an Attestor beside the join token."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from app.core.clock import Clock
from app.core.errors import UnavailableError
from app.issuers.keys import IssuerKeys, Pace
from app.spiffe.attestation import Evidence
from app.spiffe.id import SpiffeId, TrustDomain
from app.spiffe.jwt import is_jwt, parse, refused, verify
from app.spiffe.principal import Credential, Principal
from app.spiffe.service_account import SUBJECT_PREFIX, parse_subject

# Issuers are the operator's own clusters: asked often, and not waited for longer than a day.
PACE = Pace(refresh=300.0, retry=10.0, max_retry=10.0, max_stale=24 * 3600.0)


@dataclass(frozen=True, slots=True)
class JwtIssuer:
    """An issuer that is trusted for every workload's identity: its `iss`, our audiences, and its keys."""

    name: str
    audiences: tuple[str, ...]
    keys: IssuerKeys


class JwtBearer:
    """Accepts a JWT of one of the issuers as the proof of its service account's identity."""

    def __init__(self, trust_domain: TrustDomain, issuers: Iterable[JwtIssuer], clock: Clock) -> None:
        self._trust_domain, self._clock = trust_domain, clock
        self._issuers = {issuer.name: issuer for issuer in issuers}

    async def attest(self, evidence: Evidence) -> Principal | None:
        """Return the caller whose JWT the evidence is: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/NAME` of its `sub`.

        None for evidence that is no JWT.
        Raises UnauthenticatedError with the reason, which depends on nothing but the token and its issuer's keys.
        """
        text = evidence.bearer
        if text is None or not is_jwt(text):
            return None
        token = parse(text)
        issuer = self._issuers.get(token.issuer)
        if issuer is None:
            raise refused("issuer", "is of an issuer that is not trusted here: see ca.jwt_issuers")
        keys = await issuer.keys.named(token.key_id)
        claims = verify(token, keys, issuer.audiences, self._clock.now())
        return Principal(Credential.JWT, service_account_id(claims.get("sub"), self._trust_domain))

    async def maintain(self) -> None:
        """Fetch the keys that are due. Raises UnavailableError, naming each issuer, while some cannot be fetched."""
        issuers = self._issuers.values()
        await asyncio.gather(*(issuer.keys.maintain() for issuer in issuers))
        if problems := [issuer.keys.problem for issuer in issuers if issuer.keys.problem]:
            raise UnavailableError("; ".join(problems))


def service_account_id(subject: object, trust_domain: TrustDomain) -> SpiffeId:
    """Return the SPIFFE ID of `system:serviceaccount:NAMESPACE:NAME`. Raises UnauthenticatedError for another."""
    account = parse_subject(subject)
    if account is None:
        raise refused("subject", f"needs a 'sub' of the form {SUBJECT_PREFIX}NAMESPACE:NAME")
    namespace, name = account
    return SpiffeId(trust_domain, f"/ns/{namespace}/sa/{name}")
