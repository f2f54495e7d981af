"""Kubernetes tokens as proof of an identity, by the review of their cluster's API server: an Attestor."""

from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from app.core.clock import Clock
from app.core.rates import Buckets, RateLimit
from app.spiffe.attestation import Evidence
from app.spiffe.id import SpiffeId, TrustDomain
from app.spiffe.jwt import is_jwt, parse
from app.spiffe.principal import Credential, Principal
from app.spiffe.service_account import ServiceAccount, TokenReviewer, refused

# How often the log says of a service account that it still uses a token without an audience.
LEGACY_LINES = RateLimit(per_second=1 / 3600, burst=1)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Clusters:
    """The API servers that review tokens, by the ids of their clusters; a caller that names none means `primary`."""

    primary: str
    reviewers: Mapping[str, TokenReviewer]


@dataclass(frozen=True, slots=True)
class TokenRules:
    """Which service accounts' tokens are accepted.

    `audiences` are ours, at least one of which must be in a token. `legacy` accepts tokens without any audience, as
    Kubernetes kept in Secrets before 1.24: they never expire. `require_pod` refuses tokens that are not bound to a pod.
    """

    audiences: tuple[str, ...]
    legacy: bool = False
    require_pod: bool = False


class ServiceAccountTokens:
    """Accepts a token that its cluster's API server reviews as the proof of its service account's identity."""

    def __init__(self, trust_domain: TrustDomain, clusters: Clusters, rules: TokenRules, clock: Clock) -> None:
        self._trust_domain, self._clusters, self._rules = trust_domain, clusters, rules
        self._warned = Buckets(clock.monotonic)

    async def attest(self, evidence: Evidence) -> Principal | None:
        """Return the caller whose token the evidence is: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/NAME` of its review.

        None for evidence that is no JWT. Raises UnauthenticatedError with the reason, UnavailableError while the API
        server cannot be asked.
        """
        text = evidence.bearer
        if text is None or not is_jwt(text):
            return None
        reviewer = self._clusters.reviewers.get(evidence.cluster or self._clusters.primary)
        if reviewer is None:
            raise refused("cluster", "is of a cluster that is not known here: see kubernetes.remote_clusters")
        # A malformed token is not sent on. A token without an audience and one with another audience have two reasons.
        legacy = not parse(text).has_audience
        if legacy and not self._rules.legacy:
            raise refused("legacy", "has no audience: have the pod project one with an audience")
        account = await reviewer.review(text, () if legacy else self._rules.audiences)
        if self._rules.require_pod and account.pod is None:
            raise refused("unbound", "is not bound to a pod")
        if legacy:
            self._warn(account)
        spiffe_id = SpiffeId(self._trust_domain, account.path)
        return Principal(Credential.SERVICE_ACCOUNT, spiffe_id, service_account=account)

    def _warn(self, account: ServiceAccount) -> None:
        if not self._warned.take((account.cluster, account.path), LEGACY_LINES):
            log.warning(
                "legacy_token_accepted",
                cluster=account.cluster,
                namespace=account.namespace,
                service_account=account.name,
            )
