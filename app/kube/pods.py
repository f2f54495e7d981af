"""Which pods run where, as a cluster's API server knows it (Kubernetes API, core/v1)."""

from typing import Any

from kubernetes.aio.client import CoreV1Api

from app.ca.model import Pod
from app.ca.ports import Pods
from app.core.errors import NotFoundError, UnavailableError
from app.kube.api import KubeApi

_GET, _LIST = "pods.get", "pods.list"


class ClusterPods(Pods):
    """The pods of one cluster, asked for each time."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api

    async def pod(self, namespace: str, name: str) -> Pod | None:
        try:
            answer = await self._api.ask(
                _GET, lambda client: CoreV1Api(client).read_namespaced_pod_without_preload_content(name, namespace)
            )
        except NotFoundError:
            return None
        uid, spec = _object(answer, "metadata").get("uid"), _object(answer, "spec")
        account, node = spec.get("serviceAccountName"), spec.get("nodeName", "")
        if not (isinstance(uid, str) and isinstance(account, str) and isinstance(node, str)):
            raise UnavailableError(f"the cluster {self._api.access.cluster} answered something that is no pod")
        return Pod(uid, account, node)

    async def runs(self, namespace: str, service_account: str, node: str) -> bool:
        # Names of namespaces, service accounts and nodes have no character that a selector would read.
        selected = f"spec.nodeName={node},spec.serviceAccountName={service_account}"
        selected += ",status.phase!=Failed,status.phase!=Succeeded"
        answer = await self._api.ask(
            _LIST,
            lambda client: CoreV1Api(client).list_namespaced_pod_without_preload_content(
                namespace, field_selector=selected, limit=1
            ),
        )
        items = answer.get("items")
        return isinstance(items, list) and bool(items)


def _object(answer: dict[str, Any], name: str) -> dict[str, Any]:
    value = answer.get(name)
    return value if isinstance(value, dict) else {}
