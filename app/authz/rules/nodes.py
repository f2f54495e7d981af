"""A rule as data: a tree of And and Or over matches, each of one attribute of a request.

`compile` makes the trees, `holds` evaluates one against a request, `describe` prints one. Nodes are frozen and compared
by value. What depends on the policy's action is recorded in them (whether a missing attribute matches, whether patterns
are wide), so that a tree can be read without its policy.
"""

# ruff: noqa: SIM110 - any() and all() over a generator cost more than what they go over

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from operator import attrgetter
from typing import Any

from app.authz.model import Attribute, CheckInput, Joined
from app.authz.rules.addresses import remote_address_of, remote_addresses
from app.authz.rules.claims import ClaimMatch, ClaimNode, HasToken, MetadataMatch, RequestPrincipalMatch
from app.authz.rules.names import NamespacePatterns, PrincipalPatterns, ServiceAccounts, TrustDomainPatterns
from app.authz.rules.patterns import (
    AddressBlocks,
    Paths,
    ServerNames,
    StringPatterns,
    Strings,
    WideHosts,
    matcher_of,
    spelled,
)

Values = (
    Strings
    | frozenset[int]
    | WideHosts
    | ServerNames
    | PrincipalPatterns
    | NamespacePatterns
    | ServiceAccounts
    | TrustDomainPatterns
    | AddressBlocks
)


_source = attrgetter("connection.source")
_READERS: dict[Attribute, Callable[[CheckInput], Any]] = {
    Attribute.SOURCE_IP: attrgetter("connection.source_ip"),
    Attribute.SOURCE_PRINCIPAL: _source,
    Attribute.SOURCE_NAMESPACE: _source,
    Attribute.SOURCE_SERVICE_ACCOUNT: _source,
    Attribute.SOURCE_TRUST_DOMAIN: _source,
    Attribute.DESTINATION_IP: attrgetter("connection.destination_ip"),
    Attribute.DESTINATION_PORT: attrgetter("connection.destination_port"),
    Attribute.SNI: attrgetter("connection.sni"),
    Attribute.HOST: attrgetter("host"),
    Attribute.METHOD: attrgetter("method"),
}


_OF_PREMISES = {attribute for attribute, read in _READERS.items() if read is _source}
_OF_PREMISES |= {Attribute.HOST, Attribute.METHOD}


@dataclass(frozen=True, slots=True)
class Match:
    """One attribute of a request is one of `values`, or with `negated` none of them.

    `if_missing` is the result for a request that lacks the attribute, negated or not. A peer without an identity lacks
    none: it has no names, and matches no values.
    """

    attribute: Attribute
    values: Values
    negated: bool = False
    if_missing: bool = False
    _read: Callable[[CheckInput], Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_read", _READERS[self.attribute])

    def holds(self, request: CheckInput) -> bool:
        """Whether `request` matches."""
        value = self._read(request)
        if value is None:
            return self.if_missing
        return (value in self.values) is not self.negated


@dataclass(frozen=True, slots=True)
class PathMatch:
    """The path of a request is one of `patterns`, another reading of it one of `read`; or with `negated` none of them.

    `if_missing` is the result for a request that has no path.
    """

    patterns: Paths
    read: Paths
    negated: bool = False
    if_missing: bool = False
    _matches: Callable[[str], bool] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_matches", matcher_of(self.patterns))

    def holds(self, request: CheckInput) -> bool:
        """Whether the reading of `request` that is being evaluated matches."""
        if request.reading is not None:
            return (request.reading in self.read) is not self.negated
        path = request.path
        return self.if_missing if path is None else self._matches(path) is not self.negated


@dataclass(frozen=True, slots=True)
class RemoteMatch:
    """The client's address is in one of `blocks`, or with `negated` in none.

    With `as_envoy` it is the address that Envoy takes. Else it may be one of two, see `remote_addresses`: both have to
    match, or with `if_missing` one of them does or is missing.
    """

    blocks: AddressBlocks
    negated: bool = False
    if_missing: bool = False
    as_envoy: bool = False

    def holds(self, request: CheckInput) -> bool:
        """Whether `request` matches."""
        if self.as_envoy:
            address = remote_address_of(request)
            return self.if_missing if address is None else (address in self.blocks) is not self.negated
        results = (
            self.if_missing if address is None else (address in self.blocks) is not self.negated
            for address in remote_addresses(request)
        )
        return any(results) if self.if_missing else all(results)


# Elements of a text in which a check has values of a header joined: each run of them may be one of the values. Of
# longer texts no match is certain, and any is possible.
MAX_JOINED_ELEMENTS = 32
# No value of a header begins or ends with a space.
_BETWEEN_VALUES = re.compile(r"(?<![ \t]),(?![ \t])")

AUTHORITY = ":authority"
TARGET = ":path"
"""The pseudo-headers that servers read in other ways, too."""
PSEUDO_HEADERS = frozenset({AUTHORITY, ":method", TARGET, ":scheme"})
"""Those that a check has."""

PRESENT = StringPatterns(prefixes=("",))
"""What `*` is for a header: any value, even an empty one."""


@dataclass(frozen=True, slots=True)
class HeaderMatch:
    """A request header matches `values`, or with `negated` does not.

    With `as_envoy`, one of its values has to match as it is, as in Envoy 1.40. Else its values joined with commas, as
    other versions and servers read them, and each of them have to match; if `wide`, one of them, or of the elements of
    a comma-separated list. Values that the check has joined may be parted at any comma: where a match has to be
    certain, it has to be one however they are, and a wide one is one if it may be. `if_missing` is the result for a
    request of which it is not known whether it has the header.
    """

    name: str
    values: Strings
    negated: bool = False
    wide: bool = False
    if_missing: bool = False
    as_envoy: bool = False
    _is_pseudo: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_is_pseudo", self.name.startswith(":"))

    def holds(self, request: CheckInput) -> bool:
        """Whether `request` matches; an absent header matches no values."""
        found = request.headers.get(self.name)
        if found is None:
            known = request.forwarded_headers is None and not request.is_tcp and not self._is_pseudo
            return self.negated if known else self._without(request)
        return self._matches(found) is not self.negated

    def _without(self, request: CheckInput) -> bool:
        if self.as_envoy and self.name == AUTHORITY and request.host is not None:
            # It is empty: Envoy takes no request without an authority.
            return (request.host in self.values) is not self.negated
        if self.as_envoy and self.name == TARGET and request.path is not None:
            return self.negated  # a CONNECT has none
        return self.if_missing if request.lacks(self.name) else self.negated

    def _matches(self, found: tuple[str, ...]) -> bool:
        matches = self.values.__contains__
        if isinstance(found, Joined):
            return self._matches_joined(",".join(found))
        if self.as_envoy:
            return any(map(matches, found))
        readings = found if len(found) == 1 else (",".join(found), *found)
        if not self.wide:
            return all(map(matches, readings))
        return any(map(matches, readings)) or any(matches(element.strip()) for element in readings[0].split(","))

    def _matches_joined(self, text: str) -> bool:
        elements, matches = text.split(","), self.values.__contains__
        if len(elements) > MAX_JOINED_ELEMENTS:
            return self.wide
        if self.as_envoy and not self.wide:
            return _one_matches_however_parted(text, matches)
        runs = (",".join(elements[first:end]) for first, end in combinations(range(len(elements) + 1), 2))
        if self.wide:
            return any(matches(run) or matches(run.strip()) for run in runs)
        return all(matches(run.strip()) for run in runs)


def _one_matches_however_parted(text: str, matches: Callable[[str], bool]) -> bool:
    """Whether one of the values of a header matches, wherever they were joined."""
    elements = _BETWEEN_VALUES.split(text)
    # Where values may end of which none matches.
    ends = {0}
    for end in range(1, len(elements) + 1):
        if any(first in ends and not matches(",".join(elements[first:end])) for first in range(end)):
            ends.add(end)
    return len(elements) not in ends


@dataclass(frozen=True, slots=True)
class TargetMatch:
    """The pseudo-header `:path` of a request matches `header`, and another reading of its path, `path`."""

    header: HeaderMatch
    path: PathMatch

    def holds(self, request: CheckInput) -> bool:
        """Whether the reading of `request` that is being evaluated matches."""
        return (self.header if request.reading is None else self.path).holds(request)


@dataclass(frozen=True, slots=True)
class IsHttp:
    """It is an HTTP request that is checked, and no TCP connection."""

    def holds(self, request: CheckInput) -> bool:
        """Whether `request` is one."""
        return not request.is_tcp

    def __str__(self) -> str:
        return "over HTTP"


@dataclass(frozen=True, slots=True)
class And:
    """Every child holds; without children it always does."""

    children: "tuple[Node, ...]"
    _conditions: tuple[Callable[[CheckInput], bool], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_conditions", tuple(child.holds for child in self.children))

    def holds(self, request: CheckInput) -> bool:
        """Whether `request` matches."""
        for holds in self._conditions:
            if not holds(request):
                return False
        return True


@dataclass(frozen=True, slots=True)
class Or:
    """One of the children holds."""

    children: "tuple[Node, ...]"

    def holds(self, request: CheckInput) -> bool:
        """Whether `request` matches."""
        for child in self.children:
            if child.holds(request):
                return True
        return False


Node = And | Or | Match | PathMatch | RemoteMatch | HeaderMatch | TargetMatch | IsHttp | ClaimNode


def all_of(parts: list[Node]) -> Node:
    """Return the node that holds if all of `parts` do, flat: no And has an And for a child."""
    flat = [node for part in parts for node in (part.children if isinstance(part, And) else (part,))]
    return flat[0] if len(flat) == 1 else And(tuple(flat))


def any_of(parts: list[Node]) -> Node:
    """Return the node that holds if one of `parts` does."""
    return parts[0] if len(parts) == 1 else Or(tuple(parts))


def premise_of(node: Node) -> Node | None:
    """Return what has to hold of a request's peer, host and method for the node to hold, None if that is anything."""
    match node:
        case And(children):
            parts = [part for child in children if (part := premise_of(child))]
            return all_of(parts) if parts else None
        case Or(children):
            parts = [part for child in children if (part := premise_of(child))]
            return any_of(parts) if parts and len(parts) == len(children) else None
        case Match(attribute) if attribute in _OF_PREMISES:
            return node
        case _:
            return None


def headers_of(node: Node) -> frozenset[str]:
    """Return the names of the request headers that the node looks at."""
    match node:
        case HeaderMatch(name) | TargetMatch(HeaderMatch(name)):
            return frozenset({name})
        case And(children) | Or(children):
            return frozenset[str]().union(*map(headers_of, children))
        case _:
            return frozenset()


def describe(node: Node) -> str:
    """Return the node as one line: `source.namespace in [shop] and (request.path in [/a] or …)`."""
    match node:
        case And(()):
            return "any request"
        case And(children):
            return " and ".join(_inside(child, Or) for child in children)
        case Or(children):
            return " or ".join(_inside(child, And) for child in children)
        case IsHttp() | ClaimMatch() | RequestPrincipalMatch() | MetadataMatch() | HasToken():
            return str(node)
        case (HeaderMatch() as header) | TargetMatch(header):
            return _described_header(header)
        case PathMatch(patterns, _, negated, if_missing):
            return _described(Attribute.PATH, spelled(patterns), negated=negated, if_missing=if_missing)
        case RemoteMatch(blocks, negated, if_missing):
            return _described(Attribute.REMOTE_IP, str(blocks), negated=negated, if_missing=if_missing)
        case Match(attribute, values, negated, if_missing):
            more = " with any port" if isinstance(values, WideHosts) else ""
            if isinstance(values, ServerNames) and values.wide:
                more = " in any case"
            return _described(attribute, spelled(values), more, negated=negated, if_missing=if_missing)


def _described_header(match: HeaderMatch) -> str:
    quantifier = "" if match.as_envoy else "one value of " if match.wide else "every value of "
    header = f"request.headers[{match.name}]"
    is_present = match.values == PRESENT
    found = f"{header} is present" if is_present else f"{quantifier}{header} in [{spelled(match.values)}]"
    return f"{f'not ({found})' if match.negated else found}{' (or not forwarded)' if match.if_missing else ''}"


def _described(attribute: Attribute, values: str, more: str = "", *, negated: bool, if_missing: bool) -> str:
    operator = "not in" if negated else "in"
    return f"{attribute.value} {operator} [{values}]{more}{' (or missing)' if if_missing else ''}"


def _inside(child: Node, other: type[Node]) -> str:
    return f"({describe(child)})" if isinstance(child, other) else describe(child)
