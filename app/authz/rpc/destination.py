"""The destination of a check: the workload that it is about, and which workloads a caller may name.

A proxy asks about its own namespace. One that speaks for others, such as a gateway, names them in its configuration, by
route, and the control plane's settings have to let it: `authz.gateways`. A proxy on the control plane's own machine,
which proves no SPIFFE ID, is believed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.authz.model import Labels, Workload
from app.authz.rpc.attributes import labels_of, read_labels
from app.authz.rules.kubernetes import is_namespace
from app.core.errors import InvalidInputError
from app.spiffe.id import SpiffeId

EVERY_NAMESPACE = "*"


@dataclass(frozen=True, slots=True)
class Gateways:
    """The namespaces that callers speak for besides their own, by SPIFFE ID; `*` for every one."""

    namespaces: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])

    def speaks_for(self, caller: SpiffeId, namespace: str) -> bool:
        """Whether the caller may name the namespace."""
        named = self.namespaces.get(str(caller), frozenset())
        return namespace in named or EVERY_NAMESPACE in named


NO_GATEWAYS = Gateways()


@dataclass(frozen=True, slots=True)
class Named:
    """What the proxy's configuration names: a namespace, and labels as text, each None if it names none."""

    namespace: str | None
    labels: str | None


def read_workload(
    gateways: Gateways, caller: SpiffeId | None, shown: SpiffeId | None, named: Named, given: Labels | None
) -> Workload | None:
    """Return the destination, None if nothing says what it is.

    `caller` is who asks, `shown` whose certificate the listener shows, `given` the labels of the proxy itself. Labels
    that are named come beside them; a workload of a namespace that the proxy only speaks for has those alone.
    Raises InvalidInputError if the proxy may not name the namespace, or what it names is not well-formed.
    """
    if named.namespace is not None and not is_namespace(named.namespace):
        raise InvalidInputError("meshward.namespace is not a DNS label")
    identities = [each for each in (caller, shown) if each is not None]
    own = [each.namespace for each in reversed(identities) if each.namespace is not None]
    namespace = named.namespace or (own[0] if own else None)
    if namespace is None:
        return None
    is_own = all(each.namespace == namespace for each in identities)
    if not is_own and not gateways.speaks_for(identities[0], namespace):
        raise InvalidInputError(
            f"{identities[0]} does not speak for the namespace {namespace}: the setting authz.gateways does not name it"
        )
    labels = None if named.labels is None else read_labels(named.labels)
    if is_own and given is not None:
        labels = given if labels is None else labels_of(dict(given) | dict(labels))
    return Workload(namespace, labels)
