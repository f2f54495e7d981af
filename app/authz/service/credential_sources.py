"""The sources of credentials: each kind of rule is judged by its own."""

from collections.abc import Mapping
from functools import lru_cache

from app.authz.model import Workload
from app.authz.rules.credential_rules import (
    ApiKeySource,
    CredentialRule,
    IntrospectionSource,
    KnownSources,
    TokenReviewSource,
)
from app.authz.rules.credentials import CredentialProblem, Outcome, Proven, Rejected
from app.authz.rules.tokens import RESERVED_ISSUER
from app.authz.service.api_keys import ApiKeys
from app.authz.service.credentials import CredentialVerifier
from app.authz.service.introspection import Introspection
from app.core.errors import UnauthenticatedError, UnavailableError
from app.spiffe.jwt import is_jwt, parse
from app.spiffe.service_account import SUBJECT_PREFIX, ServiceAccount, TokenReviewer, refused

# Service accounts whose claims are made once; a large cluster has so many.
MAX_ACCOUNTS = 10_000

_NO_TOKEN = Rejected(CredentialProblem.INVALID, "it has not the form of a token")


class CredentialSources(CredentialVerifier):
    """Passes a credential on to the source that its rule names.

    `servers` are the authorization servers by their names, `reviewers` the clusters by their ids.
    """

    def __init__(
        self,
        api_keys: ApiKeys,
        servers: Mapping[str, Introspection],
        reviewers: Mapping[str, TokenReviewer],
        primary: str,
    ) -> None:
        self._api_keys, self._servers, self._reviewers = api_keys, servers, reviewers
        self.named = KnownSources(frozenset(servers), frozenset(reviewers), primary)

    def known(self, rule: CredentialRule, text: str, workload: Workload | None, /) -> Outcome | None:
        """Return what is known of a credential, as `CredentialVerifier.known` says."""
        match rule.source:
            case ApiKeySource() as source:
                return self._api_keys.outcome(source, text, workload)
            case IntrospectionSource(server, audiences) if server in self._servers:
                return self._servers[server].known(text, audiences)
            case TokenReviewSource(audiences, cluster) if reviewer := self._reviewer(cluster):
                account = reviewer.known(text, audiences)
                return None if account is None else proven_by(account, audiences)
            case source:
                _, problem = self.named.problem(source)
                return Rejected(CredentialProblem.UNVERIFIED, problem)

    async def ask(self, rule: CredentialRule, text: str, workload: Workload | None, /) -> Outcome:
        """Return whose credential it is, as `CredentialVerifier.ask` says."""
        match rule.source:
            case IntrospectionSource(server, audiences) if server in self._servers:
                return await self._servers[server].ask(text, audiences)
            case TokenReviewSource(audiences, cluster) if reviewer := self._reviewer(cluster):
                return await _review(reviewer, text, audiences)
            case _:
                return self.known(rule, text, workload) or _NO_TOKEN

    async def close(self) -> None:
        """Close the connections."""
        for server in self._servers.values():
            await server.close()

    def _reviewer(self, cluster: str) -> TokenReviewer | None:
        return self._reviewers.get(cluster or self.named.primary)


@lru_cache(maxsize=MAX_ACCOUNTS)
def proven_by(account: ServiceAccount, audiences: tuple[str, ...]) -> Proven:
    """Return the claims of a service account, as the review of its token tells them.

    Those of a token that is bound to a pod have its own form (`kubernetes.io`); its issuer is not reviewed, so that the
    cluster's id stands for it.
    """
    bound: dict[str, object] = {"namespace": account.namespace, "serviceaccount": {"name": account.name}}
    if account.pod is not None:
        bound["pod"] = {"name": account.pod.name, "uid": account.pod.uid}
        if account.pod.node:
            bound["node"] = {"name": account.pod.node}
    issuer = f"{RESERVED_ISSUER}kubernetes/{account.cluster}"
    subject = f"{SUBJECT_PREFIX}{account.namespace}:{account.name}"
    claims = {"iss": issuer, "sub": subject, "kubernetes.io": bound}
    # Of several audiences the review names none: the token may be for any of them.
    return Proven(claims | {"aud": list(audiences)} if len(audiences) == 1 else claims)


async def _review(reviewer: TokenReviewer, text: str, audiences: tuple[str, ...]) -> Outcome:
    if not is_jwt(text):  # which is not sent on
        return _NO_TOKEN
    try:
        # An API server takes one without an audience, which never ends, for any that it is asked about.
        if not parse(text).has_audience:
            raise refused("legacy", "has no audience: have the pod project one with an audience")
        return proven_by(await reviewer.review(text, audiences), audiences)
    except UnauthenticatedError as error:
        return Rejected(CredentialProblem.INVALID, error.message)
    except UnavailableError as error:
        return Rejected(CredentialProblem.UNVERIFIED, error.message)
