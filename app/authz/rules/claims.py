"""Matches of what a request's token says, `request.auth.*`, and of what filters of the proxy found.

As Istio's proxy compares them (`pilot/pkg/security/authz/model/generator.go`): a claim is text or a list with a text, a
request without a token has no claims, and matches no values.
"""

# ruff: noqa: SIM110 - any() over a generator costs more than what it goes over

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from app.authz.model import Attribute, CheckInput, Patterns
from app.authz.rules.patterns import ANY, StringPatterns, Strings, read_strings, spelled

# Where a claim is that has a key of its own.
CLAIM_KEYS = {Attribute.AUDIENCES: ("aud",), Attribute.PRESENTER: ("azp",)}
OF_TOKENS = frozenset({Attribute.REQUEST_PRINCIPAL, Attribute.CLAIM, *CLAIM_KEYS})

_ANY = StringPatterns(anything=True)


@dataclass(frozen=True, slots=True)
class ClaimMatch:
    """The claim at `keys`, one name inside of the other, matches one of `values`, or with `negated` none of them.

    `if_missing` is the result where it is not known whether the request has a token.
    """

    keys: tuple[str, ...]
    values: Strings
    negated: bool = False
    if_missing: bool = False

    def holds(self, request: CheckInput) -> bool:
        """Whether `request` matches."""
        found: object = request.claims
        if found is None:
            return self.if_missing
        for key in self.keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        return _matches(found, self.values, self.values) is not self.negated

    def __str__(self) -> str:
        claim = f"{Attribute.CLAIM.value}{''.join(f'[{key}]' for key in self.keys)}"
        return _shown(claim, spelled(self.values), self)


@dataclass(frozen=True, slots=True)
class RequestPrincipalMatch:
    """Issuer and subject of the request's token match one of `pairs`, or with `negated` none of them."""

    pairs: tuple[tuple[Strings, Strings], ...]
    negated: bool = False
    if_missing: bool = False

    def holds(self, request: CheckInput) -> bool:
        """Whether `request` matches."""
        claims = request.claims
        if claims is None:
            return self.if_missing
        issuer, subject = claims.get("iss"), claims.get("sub")
        if not isinstance(issuer, str) or not isinstance(subject, str):
            return self.negated
        for issuers, subjects in self.pairs:
            if issuer in issuers and subject in subjects:
                return not self.negated
        return self.negated

    def __str__(self) -> str:
        pairs = (f"{spelled(issuers)}/{spelled(subjects)}" for issuers, subjects in self.pairs)
        return _shown(Attribute.REQUEST_PRINCIPAL.value, ", ".join(pairs), self)


@dataclass(frozen=True, slots=True)
class MetadataMatch:
    """What the filter found under `key` is a text in `texts` or a list with one in `listed`; `negated` neither.

    `if_missing` is the result where the proxy does not say that a check has the filter's metadata.
    """

    filter: str
    key: str
    texts: Strings
    listed: Strings
    negated: bool = False
    if_missing: bool = False

    def holds(self, request: CheckInput) -> bool:
        """Whether `request` matches."""
        found = request.metadata.get(self.filter)
        if found is None:
            return self.if_missing
        return _matches(found.get(self.key), self.texts, self.listed) is not self.negated

    def __str__(self) -> str:
        values = (
            *([spelled(self.texts)] if self.texts else []),
            *([f"[{spelled(self.listed)}]"] if self.listed else []),
        )
        return _shown(f"experimental.{self.filter}[{self.key}]", ", ".join(values), self)


@dataclass(frozen=True, slots=True)
class HasToken:
    """The request has a token that was verified."""

    def holds(self, request: CheckInput) -> bool:
        """Whether `request` has one."""
        return bool(request.claims)

    def __str__(self) -> str:
        return "with a token"


_Comparing = ClaimMatch | RequestPrincipalMatch | MetadataMatch
ClaimNode = _Comparing | HasToken


def claim_nodes(
    attribute: Attribute, keys: tuple[str, ...], given: Patterns, *, grants: bool, strict: bool
) -> list[ClaimNode]:
    """Return the matches of values and notValues of a key in a policy that grants or refuses.

    If matching is strict, a request without a token satisfies notValues of a granting policy only where they list `*`
    and so are about such requests, as peers without an identity do.
    """
    found: list[ClaimNode] = []
    for values, negated in ((given.any_of, False), (given.none_of, True)):
        if values:
            if negated and strict and grants and attribute in OF_TOKENS and ANY not in values:
                found.append(HasToken())
            found.append(_node(attribute, keys, values, negated=negated, if_missing=not grants))
    return found


def _node(
    attribute: Attribute,
    keys: tuple[str, ...],
    values: tuple[str, ...],
    *,
    negated: bool,
    if_missing: bool,
) -> ClaimNode:
    if attribute is Attribute.REQUEST_PRINCIPAL:
        return RequestPrincipalMatch(tuple(map(_pair, values)), negated, if_missing)
    if attribute is Attribute.METADATA:
        # Istio takes away every bracket at both ends.
        listed = [value.strip("[]") for value in values if _is_list(value)]
        texts = [value for value in values if not _is_list(value)]
        return MetadataMatch(keys[0], keys[1], read_strings(texts), read_strings(listed), negated, if_missing)
    return ClaimMatch(CLAIM_KEYS.get(attribute, keys), read_strings(values), negated, if_missing)


def _pair(value: str) -> tuple[Strings, Strings]:
    """Return patterns for issuer and subject, which the last slash parts: an issuer may be a URL."""
    issuer, slash, subject = value.rpartition("/")
    if value == ANY:
        return _ANY, _ANY
    if not slash and value.startswith(ANY):
        return _ANY, StringPatterns(suffixes=(value[1:],))
    if not slash and value.endswith(ANY):
        return StringPatterns(prefixes=(value[:-1],)), _ANY
    if not slash:
        return frozenset({value}), frozenset({""})
    if value.startswith(ANY):
        return _ANY if issuer == ANY else StringPatterns(suffixes=(issuer[1:],)), frozenset({subject})
    if value.endswith(ANY):
        return frozenset({issuer}), _ANY if subject == ANY else StringPatterns(prefixes=(subject[:-1],))
    return frozenset({issuer}), frozenset({subject})


def _is_list(value: str) -> bool:
    return value.startswith("[") and value.endswith("]")


def _matches(found: object, texts: Strings, listed: Strings) -> bool:
    if isinstance(found, str):
        return found in texts
    return isinstance(found, list) and _has_one(found, listed)


def _has_one(found: Iterable[object], values: Strings) -> bool:
    for each in found:
        if isinstance(each, str) and each in values:
            return True
    return False


def _shown(name: str, values: str, node: _Comparing) -> str:
    operator = "not in" if node.negated else "in"
    return f"{name} {operator} [{values}]{' (or unknown)' if node.if_missing else ''}"
