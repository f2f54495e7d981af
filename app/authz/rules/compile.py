"""A policy becomes rules as data, with the keys under which an index finds them.

Two things depend on the policy's action. A rule *grants* if its policy is an ALLOW and *refuses* if it is a DENY. One
of an AUDIT or a CUSTOM is like one that refuses: it finds more rather than less.

- A missing attribute makes a match of a granting rule false and of a refusing rule true.
- If matching is strict, a match is wide where it leads to a denial: values of a refusing rule, notValues of a granting
  one. If it is Istio's, none is.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from app.authz.model import (
    Action,
    Attribute,
    AuthorizationPolicy,
    AuthzOptions,
    Cause,
    CheckInput,
    Condition,
    Matching,
    Networks,
    Operation,
    Patterns,
    Ports,
    Rule,
    Source,
    Verdict,
)
from app.authz.rules.claims import (
    OF_TOKENS,
    claim_nodes,
)
from app.authz.rules.keys import Keys, keys_of
from app.authz.rules.names import NamespacePatterns, PrincipalPatterns, ServiceAccounts, TrustDomainPatterns
from app.authz.rules.nodes import (
    AUTHORITY,
    PRESENT,
    TARGET,
    HeaderMatch,
    IsHttp,
    Match,
    Node,
    PathMatch,
    RemoteMatch,
    TargetMatch,
    Values,
    all_of,
    any_of,
    describe,
    headers_of,
    premise_of,
)
from app.authz.rules.patterns import (
    ANY,
    AddressBlocks,
    Paths,
    ServerNames,
    WideHosts,
    read_paths,
    read_strings,
    written_paths,
)
from app.core.decision import Decision, Outcome

# What Istio's documents write for the local trust domain, whatever its name.
LOCAL_TRUST_DOMAIN = "cluster.local"
# `example.org/ns/shop/sa/cart`: only principals of this form are expanded to the aliases of their trust domain.
_PRINCIPAL_SEGMENTS = 5

_VERBS = {Action.ALLOW: "allowed", Action.DENY: "denied", Action.AUDIT: "audited", Action.CUSTOM: "denied"}
_HAS_IDENTITY = Match(Attribute.SOURCE_PRINCIPAL, PrincipalPatterns.of([ANY]))
_OF_CLAIMS = OF_TOKENS | {Attribute.METADATA}
IDENTITY_ATTRIBUTES = (
    Attribute.SOURCE_PRINCIPAL,
    Attribute.SOURCE_NAMESPACE,
    Attribute.SOURCE_SERVICE_ACCOUNT,
    Attribute.SOURCE_TRUST_DOMAIN,
)


Place = tuple[str, str, int]
"""Where a rule stands among those that are reported: namespace and name of its policy, its number there."""


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """`node` is what has to hold of a request, which `holds` tells, `verdict` what follows if it does.

    `premise` tells whether it can for requests of the same peer, for the same host and by the same method, None if it
    always can. `keys` are what an index finds the rule by, None if it has to be evaluated for every request. `provider`
    is the one that is asked about the request if it holds; then `verdict` is what follows if that denies.
    """

    place: Place
    node: Node
    verdict: Verdict
    keys: Keys | None
    provider: str = ""
    holds: Callable[[CheckInput], bool] = field(init=False, repr=False, compare=False)
    premise: Callable[[CheckInput], bool] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Looked up once, and not with each request.
        object.__setattr__(self, "holds", self.node.holds)
        premise = premise_of(self.node)
        object.__setattr__(self, "premise", premise and premise.holds)


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """A policy as it was parsed, and its rules in their order; `headers` are the request headers they look at."""

    policy: AuthorizationPolicy
    rules: tuple[CompiledRule, ...]
    looks_at_methods: bool
    headers: frozenset[str]


def compile_policy(policy: AuthorizationPolicy, options: AuthzOptions) -> CompiledPolicy:
    """Return the policy ready for an index."""
    rules = tuple(_compile_rule(policy, number, rule, options) for number, rule in enumerate(policy.rules))
    methods = any(map(_looks_at_methods, policy.rules))
    headers = frozenset[str]().union(*(headers_of(rule.node) for rule in rules))
    return CompiledPolicy(policy, rules, methods, headers)


def _looks_at_methods(rule: Rule) -> bool:
    return any(operation.methods != Patterns() for operation in rule.operations) or any(
        condition.attribute is Attribute.METHOD for condition in rule.conditions
    )


def is_about_http(operation: Operation) -> bool:
    """Whether the operation has a field that a TCP connection lacks."""
    return Patterns() != operation.hosts or Patterns() != operation.methods or Patterns() != operation.paths


def describe_policy(compiled: CompiledPolicy, options: AuthzOptions) -> list[str]:
    """Return the policy as lines: what it does for which workloads, and what each rule matches."""
    policy = compiled.policy
    everywhere = policy.namespace == options.root_namespace and not all(scope.local for scope in policy.scopes)
    namespace = "every namespace" if everywhere else policy.namespace
    scopes = (", ".join(f"{key}={value}" for key, value in scope.labels) for scope in policy.scopes)
    labels = " or ".join(filter(None, scopes))
    by = f" by {policy.provider}" if policy.provider else ""
    action = f"{policy.action.value}{by}{', dry run,' if policy.dry_run else ''}"
    scope = f"{action} for workloads of {namespace}{f' with {labels}' if labels else ''}"
    rules = [f"rules[{number}]: {describe(rule.node)}" for number, rule in enumerate(compiled.rules)]
    return [scope, *(rules or ["no rules: matches no request"])]


def _compile_rule(policy: AuthorizationPolicy, number: int, rule: Rule, options: AuthzOptions) -> CompiledRule:
    grants = policy.action is Action.ALLOW
    node = rule_node(rule, options, grants=grants)
    name = f"rules[{number}]"
    outcome = Outcome.ALLOW if grants else Outcome.DENY
    by = f"provider {policy.provider}, which {name}" if policy.provider else name
    asks = " asks" if policy.provider else ""
    reason = f"{_VERBS[policy.action]} by {by} of policy {policy.key}{asks}"
    decision = Decision(outcome, reason, policy.key, name)
    cause = Cause.PROVIDER if policy.provider else Cause.POLICY
    place = policy.namespace, policy.name, number
    return CompiledRule(place, node, Verdict(decision, cause), keys_of(node), policy.provider)


def rule_node(rule: Rule, options: AuthzOptions, *, grants: bool) -> Node:
    """Return what has to hold of a request for `rule` to match, in a policy that grants or refuses."""
    matches = _Matches(options, grants)
    parts: list[Node] = []
    # First what is evaluated fastest and differs most from one request to the next.
    if rule.operations:
        parts.append(any_of([all_of(matches.of_operation(operation)) for operation in rule.operations]))
    if rule.sources:
        parts.append(any_of([all_of(matches.of_source(source)) for source in rule.sources]))
    for condition in rule.conditions:
        parts += matches.of_condition(condition)
    # A rule that grants is dropped whole for TCP, as in Istio, if any of its operations has what only HTTP has.
    if grants and (_is_mixed(map(is_about_http, rule.operations)) or _is_mixed(map(_is_about_tokens, rule.sources))):
        parts.append(IsHttp())
    return all_of(parts)


def _is_about_tokens(source: Source) -> bool:
    return Patterns() != source.request_principals


def _is_mixed(found: Iterable[bool]) -> bool:
    return len(set(found)) > 1


@dataclass(frozen=True, slots=True)
class _Matches:
    """Makes the matches that all have to hold for one part of a rule."""

    options: AuthzOptions
    grants: bool

    def of_source(self, source: Source) -> list[Node]:
        return [
            *self.of(Attribute.SOURCE_PRINCIPAL, source.principals),
            *self.of(Attribute.SOURCE_NAMESPACE, source.namespaces),
            *self.of(Attribute.SOURCE_SERVICE_ACCOUNT, source.service_accounts),
            *self.of(Attribute.SOURCE_TRUST_DOMAIN, source.trust_domains),
            *self.of(Attribute.SOURCE_IP, source.ip_blocks),
            *self.of(Attribute.REMOTE_IP, source.remote_ip_blocks),
            *self._of_claims(Attribute.REQUEST_PRINCIPAL, (), source.request_principals),
        ]

    def of_condition(self, condition: Condition) -> list[Node]:
        values = condition.values
        if isinstance(values, Patterns) and condition.attribute in _OF_CLAIMS:
            return self._of_claims(condition.attribute, condition.keys, values)
        return self.of(condition.attribute, values, condition.header)

    def _of_claims(self, attribute: Attribute, keys: tuple[str, ...], values: Patterns) -> list[Node]:
        return [*claim_nodes(attribute, keys, values, grants=self.grants, strict=self._strict)]

    def of_operation(self, operation: Operation) -> list[Node]:
        return [
            *self.of(Attribute.METHOD, operation.methods),
            *self.of(Attribute.PATH, operation.paths),
            *self.of(Attribute.HOST, operation.hosts),
            *self.of(Attribute.DESTINATION_PORT, operation.ports),
        ]

    def of(self, attribute: Attribute, given: Patterns | Networks | Ports, header: str = "") -> list[Node]:
        """Return the matches of one field's values and notValues.

        A peer without an identity satisfies notValues of a refusing rule. If matching is strict, it satisfies those of
        a granting one only where they list `*` and so are about peers without identity: otherwise plaintext would pass
        as "not mallory".
        """
        found: list[Node] = []
        if given.any_of:
            found.append(self._match(attribute, header, given.any_of, negated=False))
        if given.none_of:
            if self._strict and self.grants and attribute in IDENTITY_ATTRIBUTES and ANY not in given.none_of:
                found.append(_HAS_IDENTITY)
            found.append(self._match(attribute, header, given.none_of, negated=True))
        return found

    def _match(self, attribute: Attribute, header: str, values: tuple[Any, ...], *, negated: bool) -> Node:
        wide = self.grants is negated
        if attribute is Attribute.HEADER:
            return self._header_match(header, values, negated=negated, wide=wide)
        wide = wide and self._strict
        if attribute is Attribute.PATH:
            return PathMatch(*self._paths(values, wide=wide), negated, if_missing=not self.grants)
        if attribute is Attribute.REMOTE_IP:
            blocks = AddressBlocks(values, wide)
            return RemoteMatch(blocks, negated, if_missing=not self.grants, as_envoy=not self._strict)
        return Match(attribute, self._values(attribute, values, wide=wide), negated, if_missing=not self.grants)

    def _header_match(self, header: str, values: tuple[str, ...], *, negated: bool, wide: bool) -> Node:
        """Return the match of a header; of a pseudo-header as it is sent, and a wide one as a server may read it."""
        found = PRESENT if ANY in values else read_strings(values)
        match = HeaderMatch(header, found, negated, wide, if_missing=not self.grants, as_envoy=not self._strict)
        if not self._strict:
            return match
        if header == AUTHORITY and wide:
            lowered = tuple(value.lower() for value in values)
            other: Node = self._match(Attribute.HOST, "", lowered, negated=negated)
        elif header == TARGET:
            other = PathMatch(*read_paths(values, wide=wide), negated, if_missing=not self.grants)
            if not wide:
                return TargetMatch(match, other)
        else:
            return match
        return all_of([match, other]) if negated else any_of([match, other])

    @property
    def _strict(self) -> bool:
        return self.options.matching is Matching.STRICT

    def _paths(self, values: tuple[str, ...], *, wide: bool) -> tuple[Paths, Paths]:
        """Return what the path of a request is compared with, and its other readings, of which there may be none."""
        if self._strict:
            return read_paths(values, wide=wide)
        written = written_paths(values)
        return written, written

    def _values(self, attribute: Attribute, values: tuple[Any, ...], *, wide: bool) -> Values:
        if attribute in IDENTITY_ATTRIBUTES:
            return _names(attribute, values, self.options)
        match attribute:
            case Attribute.SOURCE_IP | Attribute.DESTINATION_IP:
                return AddressBlocks(values, wide)
            case Attribute.DESTINATION_PORT:
                return frozenset(values)
            case Attribute.METHOD if wide:
                return read_strings(dict.fromkeys((*values, *map(str.upper, values))))
            case Attribute.HOST if wide:
                return WideHosts.of(values)
            case Attribute.SNI if self._strict:
                return ServerNames.of(values, wide=wide)
            case Attribute.HOST | Attribute.METHOD if ANY in values and not self._strict:
                return PRESENT  # every request has them, and an empty host is one to Envoy
            case _:
                return read_strings(values)


def _names(attribute: Attribute, values: tuple[str, ...], options: AuthzOptions) -> Values:
    """Return the values of an attribute of a peer's identity."""
    match attribute:
        case Attribute.SOURCE_PRINCIPAL:
            return PrincipalPatterns.of(_for_every_trust_domain(values, options))
        case Attribute.SOURCE_NAMESPACE:
            return NamespacePatterns.of(values)
        case Attribute.SOURCE_SERVICE_ACCOUNT:
            return ServiceAccounts(values)
        case _:
            return TrustDomainPatterns.of(_with_aliases(values, options))


def _with_aliases(domains: Iterable[str], options: AuthzOptions) -> Iterator[str]:
    """Yield the trust domains, and with a local one all of its names."""
    names = (options.trust_domain, *options.trust_domain_aliases)
    for domain in domains:
        yield from names if domain in names else (domain,)


def _for_every_trust_domain(principals: Iterable[str], options: AuthzOptions) -> Iterator[str]:
    """Yield the principals, those of a local trust domain once for each of its names."""
    names = tuple(dict.fromkeys((options.trust_domain, *options.trust_domain_aliases)))
    for principal in principals:
        domain, slash, path = principal.partition("/")
        if principal.count("/") != _PRINCIPAL_SEGMENTS - 1:
            yield principal
        elif domain.startswith("*"):
            yield principal
            covered = [name for name in names if name.endswith(domain[1:])]
            yield from (f"{name}{slash}{path}" for name in names if covered and name not in covered)
        elif domain == LOCAL_TRUST_DOMAIN or any(_is_or_begins(name, domain) for name in names):
            yield from (f"{name}{slash}{path}" for name in names)
        else:
            yield principal


def _is_or_begins(name: str, domain: str) -> bool:
    """Whether the domain is the name, or what it begins with and a `*`, which Istio takes for the name as well."""
    return name.startswith(domain[:-1]) if domain.endswith(ANY) else name == domain
