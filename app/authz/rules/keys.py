"""The keys of rules: what an attribute of a request is, or begins with, wherever a rule matches."""

from dataclasses import dataclass, replace

from app.authz.model import Attribute
from app.authz.rules.claims import ClaimMatch, HasToken, MetadataMatch, RequestPrincipalMatch
from app.authz.rules.names import NamespacePatterns, PrincipalPatterns
from app.authz.rules.nodes import (
    And,
    HeaderMatch,
    IsHttp,
    Match,
    Node,
    Or,
    PathMatch,
    RemoteMatch,
    TargetMatch,
    Values,
)
from app.authz.rules.patterns import PathPatterns, Paths, StringPatterns, WideHosts

# What an index looks rules up by, the most selective first.
DIMENSIONS = (Attribute.PATH, Attribute.SOURCE_PRINCIPAL, Attribute.HOST, Attribute.SOURCE_NAMESPACE)
# Those that are also looked up by what they begin with.
_WITH_PREFIXES = frozenset({Attribute.PATH, Attribute.HOST})


@dataclass(frozen=True, slots=True)
class Keys:
    """What the attribute `dimension` of a request is, or begins with, wherever a rule matches; or it is missing."""

    dimension: Attribute
    exact: frozenset[str]
    prefixes: tuple[str, ...] = ()


def keys_of(node: Node) -> Keys | None:
    """Return the keys by which an index finds a rule, None if it has to be evaluated for every request."""
    return next((keys for dimension in DIMENSIONS if (keys := _keys(node, dimension))), None)


def _keys(node: Node, dimension: Attribute) -> Keys | None:
    match node:
        case Match(attribute, values, negated):
            return _keys_of_values(values, dimension) if attribute is dimension and not negated else None
        case PathMatch(patterns, read, negated):
            return _keys_of_paths(patterns, read) if dimension is Attribute.PATH and not negated else None
        case And(children):
            return next((keys for child in children if (keys := _keys(child, dimension))), None)
        case Or(children):
            found = [keys for child in children if (keys := _keys(child, dimension))]
            if len(found) < len(children):
                return None
            exact = frozenset(key for keys in found for key in keys.exact)
            return Keys(dimension, exact, tuple(prefix for keys in found for prefix in keys.prefixes))
        case RemoteMatch() | HeaderMatch() | TargetMatch() | IsHttp():
            return None
        case ClaimMatch() | RequestPrincipalMatch() | MetadataMatch() | HasToken():
            return None


def _keys_of_paths(patterns: Paths, read: Paths) -> Keys | None:
    found = _keys_of_values(patterns, Attribute.PATH)
    others = found if patterns is read else _keys_of_values(read, Attribute.PATH)
    if found is None or others is None or found is others:
        return found
    return Keys(Attribute.PATH, found.exact | others.exact, found.prefixes + others.prefixes)


def _keys_of_values(values: Values | Paths, dimension: Attribute) -> Keys | None:
    match values:
        case frozenset():
            return Keys(dimension, frozenset(map(str, values)))
        case StringPatterns(exact, prefixes, suffixes=(), anything=False) if dimension in _WITH_PREFIXES:
            return Keys(dimension, exact, prefixes)
        case PathPatterns(patterns, templates):
            found = _keys_of_values(patterns, dimension)
            return found and replace(found, prefixes=(*found.prefixes, *(each.beginning for each in templates)))
        case WideHosts(patterns):
            return _keys_of_values(patterns, dimension)
        case NamespacePatterns(exact, globs=()):
            return Keys(dimension, exact)
        case PrincipalPatterns(patterns, anything=False):
            return _keys_of_values(patterns, dimension)
        case _:
            return None
