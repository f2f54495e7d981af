"""The values of authorization: policies as they were parsed, requests, and verdicts.

An attribute of a request that is None is missing. A rule about it never grants and always denies: what cannot be
checked is not allowed.
"""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from types import MappingProxyType
from typing import Any, Protocol

from app.authz.identity import Identity
from app.core.decision import Decision, Watch
from app.core.errors import Violation
from app.core.frozen import frozen_when_checked

IpAddress = IPv4Address | IPv6Address
IpNetwork = IPv4Network | IPv6Network
Labels = tuple[tuple[str, str], ...]
"""Label pairs in the order of their keys."""


class Action(Enum):
    """What a policy does with a request that one of its rules matches."""

    ALLOW = "ALLOW"
    DENY = "DENY"
    AUDIT = "AUDIT"
    CUSTOM = "CUSTOM"


@dataclass(frozen=True, slots=True)
class Patterns:
    """`values` and `notValues` of one field: one of `any_of` must match (if there are any), none of `none_of` may."""

    any_of: tuple[str, ...] = ()
    none_of: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Networks:
    """The same for address blocks."""

    any_of: tuple[IpNetwork, ...] = ()
    none_of: tuple[IpNetwork, ...] = ()


@dataclass(frozen=True, slots=True)
class Ports:
    """The same for ports."""

    any_of: tuple[int, ...] = ()
    none_of: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """Who sends: every field that is set must match. Service accounts are `namespace/name`."""

    principals: Patterns = Patterns()
    namespaces: Patterns = Patterns()
    service_accounts: Patterns = Patterns()
    trust_domains: Patterns = Patterns()
    ip_blocks: Networks = Networks()
    remote_ip_blocks: Networks = Networks()
    request_principals: Patterns = Patterns()


@dataclass(frozen=True, slots=True)
class Operation:
    """What is asked for: every field that is set must match."""

    hosts: Patterns = Patterns()
    methods: Patterns = Patterns()
    paths: Patterns = Patterns()
    ports: Ports = Ports()


class Attribute(Enum):
    """What a rule looks at: the keys that a condition can have in a document, and what operations are about."""

    SOURCE_IP = "source.ip"
    REMOTE_IP = "remote.ip"
    SOURCE_PRINCIPAL = "source.principal"
    SOURCE_NAMESPACE = "source.namespace"
    SOURCE_SERVICE_ACCOUNT = "source.serviceAccount"
    SOURCE_TRUST_DOMAIN = "source.trustDomain"
    DESTINATION_IP = "destination.ip"
    DESTINATION_PORT = "destination.port"
    SNI = "connection.sni"
    HEADER = "request.headers"
    METHOD = "request.method"
    PATH = "request.path"
    HOST = "request.host"
    REQUEST_PRINCIPAL = "request.auth.principal"
    AUDIENCES = "request.auth.audiences"
    PRESENTER = "request.auth.presenter"
    CLAIM = "request.auth.claims"
    METADATA = "experimental.envoy.filters."


@dataclass(frozen=True, slots=True)
class Condition:
    """One entry of `when`. `header` is the lower-case name, also of a pseudo-header, if the attribute is HEADER.

    `keys` are the claim's name and the names inside of it if the attribute is CLAIM, and the filter's name and the key
    in its metadata if it is METADATA.
    """

    attribute: Attribute
    values: Patterns | Networks | Ports
    header: str = ""
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """OR of the sources, AND OR of the operations, AND all conditions; an empty part is always true."""

    sources: tuple[Source, ...] = ()
    operations: tuple[Operation, ...] = ()
    conditions: tuple[Condition, ...] = ()


class TargetKind(Enum):
    """What a policy can be attached to, by the label whose value is its name on the workloads that serve it.

    Istio labels the workloads of a Gateway itself; a Service or ServiceEntry is known only where the proxy's
    configuration labels the destination of a check with it.
    """

    GATEWAY = "gateway.networking.k8s.io/gateway-name"
    GATEWAY_CLASS = "gateway.networking.k8s.io/gateway-class-name"
    SERVICE = "meshward.io/service"
    SERVICE_ENTRY = "meshward.io/service-entry"


@dataclass(frozen=True, slots=True)
class Target:
    """One of `targetRefs`: an object in the policy's namespace, or a GatewayClass, which is in none."""

    kind: TargetKind
    name: str


@dataclass(frozen=True, slots=True)
class Scope:
    """Workloads of a policy: those that have the labels, with `local` only in the policy's own namespace."""

    labels: Labels
    local: bool = False


def scopes_of(selector: Labels, targets: tuple[Target, ...]) -> tuple[Scope, ...]:
    """Return the workloads of a document that has this selector or these targets, each of which is in one of these."""
    targets = tuple(dict.fromkeys(targets))
    named = (Scope(((each.kind.value, each.name),), each.kind is not TargetKind.GATEWAY_CLASS) for each in targets)
    return tuple(named) or (Scope(selector),)


@dataclass(frozen=True, slots=True)
class AuthorizationPolicy:
    """One policy document, parsed.

    It is for the workloads whose labels include `selector`, or if there are `targets` for those of one of them.

    `provider` is the name of the provider that decides, if the action is CUSTOM. A policy in `dry_run` is evaluated and
    decides nothing, and neither does one whose action is AUDIT. `warnings` are what the operator should know
    about its values.
    """

    namespace: str
    name: str
    action: Action
    selector: Labels = ()
    rules: tuple[Rule, ...] = ()
    provider: str = ""
    warnings: tuple[Violation, ...] = ()
    dry_run: bool = False
    targets: tuple[Target, ...] = ()

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """The workloads of the policy, each of which is in one of these."""
        return scopes_of(self.selector, self.targets)

    @property
    def key(self) -> str:
        """`namespace/name`, by which decisions and messages call the policy."""
        return f"{self.namespace}/{self.name}"

    @property
    def watch(self) -> Watch | None:
        """How it is recorded what the policy finds, None if it decides."""
        if self.action is Action.AUDIT:
            return Watch.AUDIT
        if not self.dry_run:
            return None
        return Watch.DRY_RUN_ALLOW if self.action is Action.ALLOW else Watch.DRY_RUN_DENY


@dataclass(frozen=True, slots=True)
class Workload:
    """The destination of a request. `labels` is None if they are missing."""

    namespace: str
    labels: Labels | None = None


Claims = Mapping[str, Any]
"""What a verified token says, as JSON; no claims at all stand for a request without one."""
NO_CLAIMS: Claims = MappingProxyType({})


class Joined(tuple[str, ...]):
    """The one text of a header that is a list with commas, or of several headers that Envoy joined with commas."""

    __slots__ = ()


class Headers(Protocol):
    """Request headers by lower-case name, also `:authority`, `:method`, `:path` and `:scheme`."""

    def get(self, name: str, /) -> tuple[str, ...] | None:
        """Return the values of the header in order, None if the request has none; `Joined` if they cannot be parted."""
        ...


@dataclass(frozen=True, slots=True)
class Connection:
    """Who sends to which workload: what is the same for every request of a connection.

    Addresses and the server name are as the proxy reports them; the name is empty if it is known that the client sent
    none. `trusted_hops` are the proxies in front of this one that are believed, see `rules.addresses`.
    """

    workload: Workload | None
    source: Identity | None
    source_ip: IpAddress | None = None
    destination_ip: IpAddress | None = None
    destination_port: int | None = None
    sni: str | None = None
    trusted_hops: int = 0


@frozen_when_checked
class CheckInput:
    """One HTTP request or TCP connection to be checked, parsed.

    With `is_tcp` it is a connection, which lacks method, path, host and every header.

    `path` is as the proxy sends it on, without query, None for a CONNECT that is matched strictly. `other_paths` are
    further readings of it that a server behind the proxy may make, see `rules.paths`; `reading` is the one of them that
    is being evaluated, None for the path itself. `host` is the authority in lower case, with its port and its last dot
    if it has them. `remote_ip` is the client's address behind the trusted proxies, see `rules.addresses`.
    `method` is None in the reading in which a header that may name another one was not forwarded. `forwarded_headers`
    are the names of headers that are absent only if the client sent none, None if that is true of every name; of
    another header that is absent it is not known whether the client sent it. `claims` are those of the request's token,
    None if it is not known whether it has one. `metadata` is what filters of the proxy found, by their names, of those
    that it is declared to have. `over_http`: the check is one over HTTP, whose answer sets no header that the proxy
    does not take. `attributes` returns the check as Envoy sent it, for providers: an `AttributeContext` in the JSON
    form of protobuf, at least those parts that it is given (`rules.parts`).
    """

    connection: Connection
    method: str | None
    path: str | None
    host: str | None
    headers: Headers
    claims: Claims | None
    metadata: Mapping[str, Any]
    forwarded_headers: Container[str] | None = None
    other_paths: tuple[str, ...] = ()
    remote_ip: IpAddress | None = None
    attributes: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    reading: str | None = None
    is_tcp: bool = False
    over_http: bool = False

    def lacks(self, header: str) -> bool:
        """Whether it is not known if the request has the header, as the proxy would not have forwarded it."""
        forwarded = self.forwarded_headers
        unknown = self.is_tcp or header.startswith(":") or (forwarded is not None and header not in forwarded)
        return unknown and self.headers.get(header) is None


class Cause(Enum):
    """Why a decision came out as it did, for the metrics."""

    POLICY = "policy"
    NO_POLICY = "no_policy"
    NO_MATCH = "no_match"
    UNKNOWN_WORKLOAD = "unknown_workload"
    BANNED = "banned"
    UNAUTHENTICATED = "unauthenticated"
    PEER = "peer"
    PROVIDER = "provider"
    MALFORMED = "malformed"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision and its cause. `labels` are both as the metrics name them."""

    decision: Decision
    cause: Cause
    labels: tuple[str, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", (self.decision.outcome.value, self.cause.value))


class UnknownWorkload(Enum):
    """What to do with a check whose destination is missing: deny it, or apply the root namespace's policies."""

    DENY = "deny"
    ROOT = "root"


class Matching(Enum):
    """What a policy is compared with.

    ISTIO: the request as Envoy's RBAC filter sees it, so that a policy decides what it would decide in a sidecar that
    Istio configures. STRICT: every reading of path, host, method and headers that a server behind could have. A match
    that leads to a denial needs one of them, any other match all. What is allowed so is allowed by ISTIO as well.
    """

    ISTIO = "istio"
    STRICT = "strict"


@dataclass(frozen=True, slots=True)
class AuthzOptions:
    """How policies are applied.

    `root_namespace`: its policies apply to every workload. `trust_domain` and `trust_domain_aliases`: a principal of
    one of them, or of `cluster.local`, in a policy stands for all of them. `providers`: the names that a CUSTOM policy
    can give.
    """

    root_namespace: str = "istio-system"
    trust_domain: str = "cluster.local"
    trust_domain_aliases: tuple[str, ...] = ()
    unknown_workload: UnknownWorkload = UnknownWorkload.DENY
    matching: Matching = Matching.ISTIO
    providers: frozenset[str] = frozenset()
