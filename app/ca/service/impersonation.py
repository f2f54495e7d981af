"""Certificates for the workloads of a node, requested by the node's proxy (ztunnel), as at istiod."""

from collections.abc import Mapping
from dataclasses import replace

import structlog

from app.ca.ports import Pods
from app.core.errors import InvalidInputError, UnauthenticatedError
from app.core.net import is_dns_name
from app.spiffe.id import SpiffeId, TrustDomain
from app.spiffe.principal import Credential, Principal
from app.spiffe.service_account import BoundPod, ServiceAccount, parse_path

log = structlog.get_logger(__name__)


class Impersonation:
    """Decides whose certificate a node's proxy may request.

    `node_accounts` are the service accounts of such proxies, `namespace/name`, in whichever cluster. `pods` are those
    of each cluster, by its id.
    """

    def __init__(self, trust_domain: TrustDomain, node_accounts: frozenset[str], pods: Mapping[str, Pods]) -> None:
        self._trust_domain, self._node_accounts, self._pods = trust_domain, node_accounts, pods

    async def of(self, caller: Principal, wanted: str) -> Principal:
        """Return `caller` as the workload whose identity it wants.

        1. The caller has proved by a token that its cluster reviewed which pod it is.
        2. Its service account is one of `node_accounts`.
        3. `wanted` is the SPIFFE ID of a service account in this trust domain.
        4. The caller's pod exists, with the UID and the service account of the token, and on the node of the token.
        5. A pod of that service account, which has not ended, is on that node, in the caller's cluster.

        Raises UnauthenticatedError if one of these does not hold, UnavailableError if that cannot be found out now.
        """
        account = caller.service_account
        if caller.credential is not Credential.SERVICE_ACCOUNT or account is None or account.pod is None:
            raise _refused("the caller did not prove which pod it is, by a token that its cluster reviewed")
        if f"{account.namespace}/{account.name}" not in self._node_accounts:
            raise _refused("the caller's service account is not one of kubernetes.node_accounts")
        spiffe_id, namespace, name = self._wanted(wanted)
        pods = self._pods[account.cluster]
        node = await self._node(pods, account, account.pod)
        if not await pods.runs(namespace, name, node):
            raise _refused(f"no pod of {spiffe_id} is on the node {node}")
        log.info("impersonated", spiffe_id=str(spiffe_id), pod=f"{account.namespace}/{account.pod.name}", node=node)
        return replace(caller, spiffe_id=spiffe_id)

    def _wanted(self, wanted: str) -> tuple[SpiffeId, str, str]:
        try:
            spiffe_id = SpiffeId.parse(wanted)
        except InvalidInputError as error:
            raise _refused(error.message) from error
        workload = parse_path(spiffe_id.path)
        if spiffe_id.trust_domain != self._trust_domain:
            raise _refused(f"{spiffe_id} is not in this trust domain")
        if workload is None:
            raise _refused(f"{spiffe_id} is not a service account's")
        return (spiffe_id, *workload)

    async def _node(self, pods: Pods, account: ServiceAccount, claimed: BoundPod) -> str:
        """Return the node that the caller's pod is on."""
        pod = await pods.pod(account.namespace, claimed.name)
        if pod is None:
            raise _refused("the caller's pod does not exist")
        if pod.uid != claimed.uid:
            raise _refused("the caller's pod has another UID than the token says: it was created again")
        if pod.service_account != account.name:
            raise _refused("the caller's pod has another service account than the token says")
        if not is_dns_name(pod.node) or (claimed.node and claimed.node != pod.node):
            raise _refused("the caller's pod is on no node, or on another one than the token says")
        return pod.node


def _refused(problem: str) -> UnauthenticatedError:
    return UnauthenticatedError(f"requested for another workload: {problem}", reason="impersonation")
