"""A policy becomes rules that are one test each, with the keys under which an index finds them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from app.authz.model import (
    Action,
    Attribute,
    AuthorizationPolicy,
    AuthzOptions,
    Cause,
    CheckInput,
    Condition,
    IpAddress,
    Labels,
    Networks,
    Operation,
    Patterns,
    Ports,
    Rule,
    Source,
    Verdict,
)
from app.authz.rules import match
from app.authz.rules.match import Test
from app.authz.rules.strings import ANY, StringPatterns
from app.authz.rules.template import is_template
from app.core.decision import Decision, Outcome

# Istio writes it in policies for whatever the local trust domain is.
LOCAL_TRUST_DOMAIN = "cluster.local"
# `example.org/ns/shop/sa/cart`: only principals of this form are expanded to the aliases of their trust domain.
_PRINCIPAL_SEGMENTS = 5


class Dimension(Enum):
    """What an index looks rules up by, the most selective first."""

    PATH = "path"
    PRINCIPAL = "principal"
    HOST = "host"
    NAMESPACE = "namespace"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """`test` says whether the rule matches; only a request with one of the `keys` in `dimension` can make it true.

    `prefixes` are keys that the beginning of a path is looked up with. `verdict` is what a match means.
    """

    test: Test
    verdict: Verdict
    dimension: Dimension = Dimension.NOTHING
    keys: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """A policy's rules in their order, and what an index sorts them by."""

    namespace: str
    name: str
    action: Action
    selector: Labels
    rules: tuple[CompiledRule, ...]
    looks_at_methods: bool


def compile_policy(policy: AuthorizationPolicy, options: AuthzOptions) -> CompiledPolicy:
    """Return the policy ready for an index."""
    rules = tuple(_compile_rule(policy, number, rule, options) for number, rule in enumerate(policy.rules))
    methods = any(operation.methods != Patterns() for rule in policy.rules for operation in rule.operations)
    return CompiledPolicy(policy.namespace, policy.name, policy.action, policy.selector, rules, methods)


def _compile_rule(policy: AuthorizationPolicy, number: int, rule: Rule, options: AuthzOptions) -> CompiledRule:
    grants = policy.action is Action.ALLOW
    expand = _principal_expansion(options)
    tests = [
        _any([_all(_source_tests(source, expand, grants=grants)) for source in rule.sources]),
        _any([_all(_operation_tests(operation, grants=grants)) for operation in rule.operations]),
        *(_all(_condition_tests(condition, expand, grants=grants)) for condition in rule.conditions),
    ]
    dimension, keys, prefixes = _keys(rule, expand)
    name = f"rules[{number}]"
    outcome, verb = (Outcome.ALLOW, "allowed") if grants else (Outcome.DENY, "denied")
    decision = Decision(outcome, f"{verb} by {name} of policy {policy.key}", policy.key, name)
    return CompiledRule(
        _all(test for test in tests if test is not _always), Verdict(decision, Cause.POLICY), dimension, keys, prefixes
    )


def _always(_request: CheckInput) -> bool:
    return True


def _all(tests: Iterable[Test]) -> Test:
    """Return a test that is true if all of `tests` are, and so if there are none."""
    parts = tuple(tests)
    match parts:
        case ():
            return _always
        case (only,):
            return only
        case (first, second):
            return lambda request: first(request) and second(request)
        case _:
            return lambda request: all(test(request) for test in parts)


def _any(tests: Iterable[Test]) -> Test:
    """Return a test that is true if one of `tests` is; no tests stand for a part that the rule leaves out."""
    parts = tuple(tests)
    match parts:
        case ():
            return _always
        case (only,):
            return only
        case _:
            return lambda request: any(test(request) for test in parts)


Expansion = Callable[[tuple[str, ...]], tuple[str, ...]]


def _principal_expansion(options: AuthzOptions) -> Expansion:
    """Return what writes principals of a local trust domain out for each of its names."""
    names = tuple(dict.fromkeys((options.trust_domain, *options.trust_domain_aliases)))

    def variants(principal: str) -> tuple[str, ...]:
        domain, slash, path = principal.partition("/")
        if principal.count("/") != _PRINCIPAL_SEGMENTS - 1:
            return (principal,)
        if domain.startswith("*"):
            same = [name.endswith(domain[1:]) for name in names]
            others = [f"{name}{slash}{path}" for name, covered in zip(names, same, strict=True) if not covered]
            return (principal, *others) if any(same) else (principal,)
        if domain in names or domain == LOCAL_TRUST_DOMAIN:
            return tuple(f"{name}{slash}{path}" for name in names)
        return (principal,)

    return lambda principals: tuple(dict.fromkeys(v for principal in principals for v in variants(principal)))


def _source_tests(source: Source, expand: Expansion, *, grants: bool) -> list[Test]:
    return [
        *_principal_tests(source.principals, expand, grants=grants),
        *match.identity_tests(source.namespaces, match.namespace_test, grants=grants),
        *match.identity_tests(source.service_accounts, match.service_account_test, grants=grants),
        *match.identity_tests(source.trust_domains, match.trust_domain_test, grants=grants),
        *match.address_tests(source.ip_blocks, _source_ip, grants=grants),
        *match.address_tests(source.remote_ip_blocks, _remote_ip, grants=grants),
    ]


def _principal_tests(patterns: Patterns, expand: Expansion, *, grants: bool) -> list[Test]:
    expanded = Patterns(expand(patterns.any_of), expand(patterns.none_of))
    return match.identity_tests(expanded, match.principal_test, grants=grants)


def _source_ip(request: CheckInput) -> IpAddress | None:
    return request.source_ip


def _remote_ip(request: CheckInput) -> IpAddress | None:
    return request.remote_ip


def _destination_ip(request: CheckInput) -> IpAddress | None:
    return request.destination_ip


def _operation_tests(operation: Operation, *, grants: bool) -> list[Test]:
    return [
        *match.method_tests(operation.methods),
        *match.path_tests(operation.paths, grants=grants),
        *match.host_tests(operation.hosts, grants=grants),
        *match.port_tests(operation.ports, grants=grants),
    ]


_IDENTITY_TESTS = {
    Attribute.SOURCE_NAMESPACE: match.namespace_test,
    Attribute.SOURCE_SERVICE_ACCOUNT: match.service_account_test,
    Attribute.SOURCE_TRUST_DOMAIN: match.trust_domain_test,
}
_ADDRESSES = {
    Attribute.SOURCE_IP: _source_ip,
    Attribute.REMOTE_IP: _remote_ip,
    Attribute.DESTINATION_IP: _destination_ip,
}


def _condition_tests(condition: Condition, expand: Expansion, *, grants: bool) -> list[Test]:
    attribute = condition.attribute
    match condition.values:
        case Networks() as networks:
            return match.address_tests(networks, _ADDRESSES[attribute], grants=grants)
        case Ports() as ports:
            return match.port_tests(ports, grants=grants)
        case Patterns() as patterns if attribute is Attribute.HEADER:
            return match.header_tests(condition.header, patterns, grants=grants)
        case Patterns() as patterns if attribute is Attribute.SNI:
            return match.sni_tests(patterns, grants=grants)
        case Patterns() as patterns if attribute is Attribute.SOURCE_PRINCIPAL:
            return _principal_tests(patterns, expand, grants=grants)
        case patterns:
            return match.identity_tests(patterns, _IDENTITY_TESTS[attribute], grants=grants)


Keys = tuple[Dimension, tuple[str, ...], tuple[str, ...]]


def _keys(rule: Rule, expand: Expansion) -> Keys:
    """Return the first dimension in which every match of the rule has one of a few keys."""
    paths = [operation.paths.any_of for operation in rule.operations]
    if paths and all(map(_has_path_keys, paths)):
        sorted_paths = StringPatterns.of(value for values in paths for value in values)
        with_slash = (f"{path}/" for path in sorted_paths.exact)  # what a wide test matches, too
        return Dimension.PATH, (*sorted_paths.exact, *with_slash), sorted_paths.prefixes
    conditions = [
        expand(condition.values.any_of)
        for condition in rule.conditions
        if condition.attribute is Attribute.SOURCE_PRINCIPAL and isinstance(condition.values, Patterns)
    ]
    choices = (
        (Dimension.PRINCIPAL, [expand(source.principals.any_of) for source in rule.sources]),
        *((Dimension.PRINCIPAL, [values]) for values in conditions),
        (Dimension.HOST, [operation.hosts.any_of for operation in rule.operations]),
        (Dimension.NAMESPACE, [source.namespaces.any_of for source in rule.sources]),
    )
    for dimension, alternatives in choices:
        keys = _exact(alternatives)
        if keys and not (dimension is Dimension.NAMESPACE and any("/" in key for key in keys)):
            return dimension, keys, ()
    return Dimension.NOTHING, (), ()


def _has_path_keys(values: tuple[str, ...]) -> bool:
    return bool(values) and not any(value.startswith(ANY) or is_template(value) for value in values)


def _exact(alternatives: list[tuple[str, ...]]) -> tuple[str, ...]:
    """Return all values of the alternatives if each has some and none of them is a pattern, else nothing."""
    if not all(alternatives) or any("*" in value for values in alternatives for value in values):
        return ()
    return tuple(value for values in alternatives for value in values)
