"""The settings of the Kubernetes clusters whose API servers are asked."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from app.settings.area import Area
from app.settings.values import AccountName, ClusterId, FilePath, Names, Table

# A mesh with more clusters has a control plane in several of them.
MAX_CLUSTERS = 64
MAX_AUDIENCES = 16
MAX_NAME_LENGTH = 253
# Those of node proxies: one in each release that a mesh is moved over to.
MAX_NODE_ACCOUNTS = 16
# What was revoked is accepted for so long.
MAX_CACHE_SECONDS = 300.0
# Callers wait for no longer.
MAX_TIMEOUT_MS = 30_000

ContextName = Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH)]
Audience = Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH)]
Audiences = Annotated[tuple[Audience, ...], Names, Field(min_length=1, max_length=MAX_AUDIENCES)]


class RemoteClusterSettings(Area):
    """Another cluster: the kubeconfig by which its API server is reached, and the context in it."""

    kubeconfig: FilePath
    context: ContextName | None = None


class KubernetesSettings(Area):
    """The API servers that are asked, and which of their tokens prove an identity.

    `api`: how that of the primary cluster is reached: as a pod of it, or by `kubeconfig` and the `context` in it.
    `cluster_id`: the primary cluster's id in `clusterid`, by which Istio's agents name theirs. `remote_clusters`: the
    others, by id. `token_audiences`: what may be in `aud`. `legacy_tokens`: whether a token without any audience is
    refused, or accepted with a warning. `require_pod`: tokens must be bound to a pod. `node_accounts`:
    those of node proxies, which may request certificates for the pods of their node. `cache_seconds`: how long a review
    is remembered. `timeout_ms`: how long an API server's answer may take.
    """

    api: Literal["off", "in-cluster", "kubeconfig"] = "off"
    kubeconfig: FilePath | None = None
    context: ContextName | None = None
    cluster_id: ClusterId = "Kubernetes"
    remote_clusters: Annotated[dict[ClusterId, RemoteClusterSettings], Table, Field(max_length=MAX_CLUSTERS)] = Field(
        default_factory=dict
    )
    token_audiences: Audiences = ("istio-ca",)
    legacy_tokens: Literal["refuse", "warn"] = "refuse"
    require_pod: bool = False
    node_accounts: Annotated[tuple[AccountName, ...], Names, Field(max_length=MAX_NODE_ACCOUNTS)] = ()
    cache_seconds: Annotated[float, Field(ge=0, le=MAX_CACHE_SECONDS)] = 10.0
    timeout_ms: Annotated[int, Field(ge=1, le=MAX_TIMEOUT_MS)] = 5000

    @model_validator(mode="after")
    def _access_is_whole(self) -> "KubernetesSettings":
        if (self.api == "kubeconfig") != (self.kubeconfig is not None):
            raise ValueError("api = kubeconfig and the file, kubeconfig, must be set together")
        if self.context is not None and self.kubeconfig is None:
            raise ValueError("context names a context of a kubeconfig, and kubeconfig is not set")
        if self.remote_clusters and self.api == "off":
            raise ValueError("remote_clusters needs api: in-cluster or kubeconfig")
        if self.cluster_id in self.remote_clusters:
            raise ValueError("remote_clusters has the cluster_id of the primary cluster: give each its own")
        return self
