"""What in a policy can be meant otherwise than it is read: values that match no request, or fewer than they seem to.

Or other ones as `authz.matching` is, behind a proxy that normalises as the guide says: what the two kinds make of a
header that comes twice, of the port of a host, of a peer without an identity.

A policy with such values is valid, as in Istio; the answer to the change has the warnings.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice

from app.authz.model import (
    Action,
    Attribute,
    IpNetwork,
    Networks,
    Operation,
    Patterns,
    Ports,
    Rule,
    Source,
    Target,
    TargetKind,
)
from app.authz.rules.addresses import is_mapped, other_form
from app.authz.rules.claims import OF_TOKENS
from app.authz.rules.compile import IDENTITY_ATTRIBUTES, is_about_http
from app.authz.rules.hosts import is_authority
from app.authz.rules.nodes import PSEUDO_HEADERS
from app.authz.rules.paths import normalised, read_path
from app.authz.rules.patterns import ANY, is_template, matched_by, sample_path
from app.core.errors import InvalidInputError, Violation
from app.spiffe.id import SpiffeId, TrustDomain

# What one answer lists.
MAX_WARNINGS = 100

_BOTH = "with authz.matching 'strict' {}, with 'istio' {}"

Values = Patterns | Networks | Ports
Warn = Callable[..., str]
"""Takes a value and, by name, whether its pattern is `wide`; returns what to say about it, empty for nothing."""

# What conditions can be about that a TCP connection lacks.
_OF_REQUESTS = OF_TOKENS | {Attribute.HEADER, Attribute.METHOD}
_METHOD = re.compile(r"[A-Z0-9!#$%&'+.^_`|~-]+")
# Envoy removes these from a request before it asks.
_REMOVED_HEADERS = frozenset({"keep-alive", "proxy-connection", "transfer-encoding"})
_HEADERS_OF_THE_CHECK = ("x-meshward-", "x-envoy-", "content-length")

_SOURCE_FIELDS: tuple[tuple[str, Attribute, Callable[[Source], Values]], ...] = (
    ("principals", Attribute.SOURCE_PRINCIPAL, lambda source: source.principals),
    ("trustDomains", Attribute.SOURCE_TRUST_DOMAIN, lambda source: source.trust_domains),
    ("ipBlocks", Attribute.SOURCE_IP, lambda source: source.ip_blocks),
    ("remoteIpBlocks", Attribute.REMOTE_IP, lambda source: source.remote_ip_blocks),
)
_IDENTITY_FIELDS: tuple[tuple[str, Callable[[Source], Values]], ...] = (
    ("principals", lambda source: source.principals),
    ("namespaces", lambda source: source.namespaces),
    ("serviceAccounts", lambda source: source.service_accounts),
    ("trustDomains", lambda source: source.trust_domains),
)
_OPERATION_FIELDS: tuple[tuple[str, Attribute, Callable[[Operation], Values]], ...] = (
    ("hosts", Attribute.HOST, lambda operation: operation.hosts),
    ("methods", Attribute.METHOD, lambda operation: operation.methods),
    ("paths", Attribute.PATH, lambda operation: operation.paths),
)


def warnings_of(
    action: Action,
    rules: tuple[Rule, ...],
    targets: tuple[Target, ...] = (),
    *,
    single: bool = False,
    noted: Iterable[Violation] = (),
) -> tuple[Violation, ...]:
    """Return the warnings about a policy's rules and targets, each with the path of what it is about.

    `single`: the target is `targetRef`, which is no list. `noted` are those about the spec as it is written.
    """
    of_rules = (_of_rule(action, f"spec.rules[{i}]", rule) for i, rule in enumerate(rules))
    return tuple(islice(chain(noted, _of_targets(targets, single=single), *of_rules), MAX_WARNINGS))


def _of_targets(targets: tuple[Target, ...], *, single: bool) -> Iterator[Violation]:
    for number, target in enumerate(targets):
        place = "spec.targetRef" if single else f"spec.targetRefs[{number}]"
        label = f"{target.kind.value}={target.name}"
        if target.kind in {TargetKind.SERVICE, TargetKind.SERVICE_ENTRY}:
            yield Violation(
                place,
                f"a check does not tell its service: the policy is for no workloads but those labelled {label}",
            )
        elif target.kind is TargetKind.GATEWAY_CLASS:
            yield Violation(
                place,
                f"is for workloads labelled {label} of every namespace only where the policy is in the root namespace",
            )


def _of_connections(action: Action, rule: Rule) -> str:
    """Return a warning about a DENY rule that denies TCP connections, which lack what it says of requests."""
    keys = {condition.attribute for condition in rule.conditions}
    ports = any(operation.ports != Ports() for operation in rule.operations) or Attribute.DESTINATION_PORT in keys
    http = any(map(is_about_http, rule.operations)) or keys & _OF_REQUESTS
    tokens = any(source.request_principals != Patterns() for source in rule.sources)
    if action is not Action.DENY or ports or not (http or tokens):
        return ""
    ignored = "methods, paths, hosts, headers and tokens"
    return f"denies TCP connections whatever it says of {ignored}: name ports if it is for some"


def _of_rule(action: Action, place: str, rule: Rule) -> Iterator[Violation]:
    if problem := _of_connections(action, rule):
        yield Violation(place, problem)
    for number, source in enumerate(rule.sources):
        field = f"{place}.from[{number}].source"
        for name, attribute, of_source in _SOURCE_FIELDS:
            yield from _of_values(action, (f"{field}.{name}", f"{field}.{_not(name)}"), attribute, of_source(source))
        for name, of_identity in _IDENTITY_FIELDS:
            yield from _of_peers_without(action, f"{field}.{_not(name)}", of_identity(source))
        yield from _of_requests_without(action, f"{field}.notRequestPrincipals", source.request_principals)
    yield from _of_operations(action, place, rule)
    for number, condition in enumerate(rule.conditions):
        field = f"{place}.when[{number}]"
        if problem := _of_header(condition.header):
            yield Violation(f"{field}.key", problem)
        yield from _of_values(action, (f"{field}.values", f"{field}.notValues"), condition.attribute, condition.values)
        if condition.attribute in IDENTITY_ATTRIBUTES:
            yield from _of_peers_without(action, f"{field}.notValues", condition.values)
        if condition.attribute in OF_TOKENS:
            yield from _of_requests_without(action, f"{field}.notValues", condition.values)


def _of_operations(action: Action, place: str, rule: Rule) -> Iterator[Violation]:
    for number, operation in enumerate(rule.operations):
        field = f"{place}.to[{number}].operation"
        for name, attribute, of_operation in _OPERATION_FIELDS:
            places = f"{field}.{name}", f"{field}.{_not(name)}"
            yield from _of_values(action, places, attribute, of_operation(operation))


def _of_requests_without(action: Action, place: str, values: Values) -> Iterator[Violation]:
    """Yield a warning about a rule that allows every token but some, and so requests that have none."""
    if action is Action.ALLOW and values.none_of and ANY not in values.none_of:
        yield Violation(place, _BOTH.format("no request without a token passes", "each does: require a token, too"))


def _of_peers_without(action: Action, place: str, values: Values) -> Iterator[Violation]:
    """Yield a warning about a rule that allows every peer but some, and so those that have no identity."""
    if action is Action.ALLOW and values.none_of and ANY not in values.none_of:
        yield Violation(
            place, _BOTH.format("no peer without an identity passes", "each does: require an identity, too")
        )


def _not(name: str) -> str:
    return f"not{name[0].upper()}{name[1:]}"


def _of_values(action: Action, places: tuple[str, str], attribute: Attribute, values: Values) -> Iterator[Violation]:
    warn = _WARN.get(attribute)
    if warn is None:
        return
    lists = (values.any_of, action is Action.DENY), (values.none_of, action is Action.ALLOW)
    for place, (given, wide) in zip(places, lists, strict=True):
        for number, value in enumerate(given):
            if problem := warn(value, wide=wide):
                yield Violation(f"{place}[{number}]", problem)


def _literal_star(value: str) -> str:
    """Return a warning about a `*` that stands for itself."""
    rest = value[1:] if value.startswith("*") else value.removesuffix("*")
    return f"'*' stands for itself here: {value!r} has one elsewhere than at one end" if "*" in rest else ""


def _of_text(is_possible: Callable[[str], bool], what: str) -> Warn:
    def warn(value: str, *, wide: bool) -> str:  # noqa: ARG001 - as the others
        if problem := _literal_star(value):
            return problem
        return "" if "*" in value or is_possible(value) else f"no request has the {what} {value!r}"

    return warn


def _of_path(value: str, *, wide: bool) -> str:
    if not is_template(value) and (problem := _literal_star(value)):
        return f"{problem}; for one segment write '{{*}}'"
    sample = sample_path(value)
    reading = read_path(sample) if sample else None
    if reading is None or value == ANY:
        return ""
    if reading.problem:
        return f"such requests are denied anyway: {reading.problem}"
    if reading.path == sample and not reading.others:
        return ""
    if not matched_by(value, path := normalised(reading.path)):
        return f"paths are compared as Envoy normalises them, and it makes {path!r} of {sample!r}"
    missed = [] if wide else [other for other in reading.others if not matched_by(value, other, read=True)]
    return f"a server may read {sample!r} as {missed[0]!r}, which has to be allowed, too" if missed else ""


def _of_path_in_all_spellings(value: str, *, wide: bool) -> str:
    problem = _of_path(value, wide=wide)
    if problem or not wide or value.endswith(("*", "/")):
        return problem
    return _BOTH.format(f"it stands for {value + '/'!r} as well", "for itself alone")


def _of_host(value: str, *, wide: bool) -> str:
    problem = _of_host_text(value, wide=wide)
    if problem or not wide or value.endswith("*"):
        return problem
    return _BOTH.format(
        "it stands for any port and a last dot as well", f"for itself alone: write {value.rstrip('.') + '*'!r}"
    )


def _of_server_name(value: str, *, wide: bool) -> str:
    if problem := _literal_star(value):
        return problem
    if value != value.lower():
        nothing = f"{value!r} matches no server name, which is compared in lower case"
        return _BOTH.format("it matches in any case", "none: names are in lower case") if wide else nothing
    return _BOTH.format("it stands for a last dot as well", "for itself alone") if wide and value[-1:] != "*" else ""


def _of_block(block: IpNetwork, *, wide: bool) -> str:
    if wide or not is_mapped(block):
        return ""
    return f"an IPv4 address is not in {block}, because Envoy has it as IPv4: write {other_form(block)}"


def _of_header_value(value: str, *, wide: bool) -> str:
    if value != value.strip():
        return f"no header has the value {value!r}, because spaces around a value are cut"
    if value == ANY:
        return ""
    strict = (
        "one value of a header, or of a list with commas, is enough" if wide else "each value of a header must match"
    )
    return _BOTH.format(strict, "one value, as it was sent, is enough")


def _of_header(name: str) -> str:
    if name.startswith(":") and name not in PSEUDO_HEADERS:
        return (
            f"a check does not have {name}: a rule that allows by it allows nothing, one that denies by it denies all"
        )
    if name in _REMOVED_HEADERS:
        return f"no request has the header {name}: Envoy removes it before it asks"
    if name.startswith(_HEADERS_OF_THE_CHECK):
        return f"a check over HTTP does not have the header {name} of the request, and is denied by this rule"
    return ""


def _is_principal(value: str) -> bool:
    try:
        SpiffeId.parse(f"spiffe://{value}")
    except InvalidInputError:
        return False
    return True


def _is_trust_domain(value: str) -> bool:
    try:
        TrustDomain(value)
    except InvalidInputError:
        return False
    return True


_of_host_text = _of_text(is_authority, "host")
_WARN: dict[Attribute, Warn] = {
    Attribute.SOURCE_PRINCIPAL: _of_text(_is_principal, "principal"),
    Attribute.SOURCE_TRUST_DOMAIN: _of_text(_is_trust_domain, "trust domain"),
    Attribute.SOURCE_IP: _of_block,
    Attribute.REMOTE_IP: _of_block,
    Attribute.DESTINATION_IP: _of_block,
    Attribute.HOST: _of_host,
    Attribute.METHOD: _of_text(lambda value: _METHOD.fullmatch(value) is not None, "method"),
    Attribute.PATH: _of_path_in_all_spellings,
    Attribute.SNI: _of_server_name,
    Attribute.HEADER: _of_header_value,
}
