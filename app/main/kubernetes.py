"""The Kubernetes clusters whose API servers are asked, from settings."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.ca.service.impersonation import Impersonation
from app.ca.service.service_accounts import Clusters, ServiceAccountTokens, TokenRules
from app.core.clock import Clock
from app.core.errors import InvalidInputError, UnavailableError
from app.settings import Settings
from app.spiffe.service_account import TokenReviewer
from app.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from app.kube.api import KubeApi
    from app.kube.token_review import TokenReviews

# How often an API server is asked for nothing but to see that it answers, and that it lets us review tokens.
CHECK_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Kubernetes:
    """The clusters by their ids, with the primary one among them, and the attestor of their tokens."""

    apis: "tuple[KubeApi, ...]"
    reviewers: "Mapping[str, TokenReviews]"
    primary: TokenReviewer
    attestor: ServiceAccountTokens
    impersonation: Impersonation

    async def check(self) -> None:
        """Ask each API server. Raises UnavailableError that names each one which does not review tokens."""
        answers = await asyncio.gather(*(one.check() for one in self.reviewers.values()), return_exceptions=True)
        problems = []
        for answer in answers:
            if isinstance(answer, UnavailableError):
                problems.append(answer.message)
            elif answer is not None:
                raise answer
        if problems:
            raise UnavailableError("; ".join(problems))

    async def close(self) -> None:
        """Close the connections."""
        await asyncio.gather(*(api.close() for api in self.apis))


def make_kubernetes(settings: Settings, clock: Clock, metrics: Metrics) -> Kubernetes | None:
    """Return the clusters, None if none is configured; nothing is asked yet. Raises InvalidInputError."""
    kubernetes = settings.kubernetes
    if kubernetes.api == "off":
        return None
    try:
        # An extra, which takes seconds to load.
        from app.kube.api import ClusterAccess, KubeApi  # noqa: PLC0415
        from app.kube.pods import ClusterPods  # noqa: PLC0415
        from app.kube.token_review import TokenReviews  # noqa: PLC0415
    except ImportError as error:
        raise InvalidInputError(
            f"kubernetes.api needs the extra 'kubernetes': pip install 'meshward[kubernetes]' ({error})"
        ) from error
    seconds = kubernetes.timeout_ms / 1000
    accesses = [ClusterAccess(kubernetes.cluster_id, kubernetes.kubeconfig, kubernetes.context, seconds)]
    accesses += [
        ClusterAccess(cluster, remote.kubeconfig, remote.context, seconds)
        for cluster, remote in kubernetes.remote_clusters.items()
    ]
    apis = tuple(KubeApi(access, clock, metrics) for access in accesses)
    reviewers = {api.access.cluster: TokenReviews(api, clock, kubernetes.cache_seconds) for api in apis}
    rules = TokenRules(kubernetes.token_audiences, kubernetes.legacy_tokens == "warn", kubernetes.require_pod)
    clusters = Clusters(kubernetes.cluster_id, reviewers)
    attestor = ServiceAccountTokens(settings.trust_domain, clusters, rules, clock)
    pods = {api.access.cluster: ClusterPods(api) for api in apis}
    impersonation = Impersonation(settings.trust_domain, frozenset(kubernetes.node_accounts), pods)
    return Kubernetes(apis, reviewers, reviewers[kubernetes.cluster_id], attestor, impersonation)
