"""The issuers of JWTs whose service accounts' identities are accepted, constructed from settings."""

from app.ca.service.jwt_bearer import PACE, JwtBearer, JwtIssuer
from app.core.clock import Clock
from app.issuers.keys import IssuerKeys
from app.issuers.sources import Fetcher, JwksFile, JwksUrl
from app.settings import Settings
from app.telemetry.metrics import Metrics


def make_jwt_bearer(settings: Settings, clock: Clock, metrics: Metrics) -> JwtBearer | None:
    """Return the attestor of JWTs, None if no issuer is configured."""
    issuers = []
    for issuer in settings.ca.jwt_issuers:
        jwks, ca_file = issuer.jwks, issuer.jwks_ca_file
        source = JwksUrl(jwks, Fetcher(ca_file)) if isinstance(jwks, str) else JwksFile(jwks)
        keys = IssuerKeys(issuer.issuer, source, clock, metrics, PACE)
        issuers.append(JwtIssuer(issuer.issuer, issuer.audiences, keys))
    return JwtBearer(settings.trust_domain, issuers, clock) if issuers else None
