"""Which limit applies to a descriptor: a domain's configuration, compiled to a tree that is walked once, never back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from app.quota.model import ConfigDescriptor, Descriptor, Entry, Limit, QuotaConfig

WILDCARD = "*"


@dataclass(frozen=True, slots=True)
class Pattern:
    """A value with wildcards: `prefix`, then each of `middle` in order, then `suffix`, anything between them."""

    prefix: str
    middle: tuple[str, ...]
    suffix: str

    def matches(self, value: str) -> bool:
        """Return whether `value` fits. The leftmost place of each part is the best one, so none is tried twice."""
        start, end = len(self.prefix), len(value) - len(self.suffix)
        if start > end or not value.startswith(self.prefix) or not value.endswith(self.suffix):
            return False
        for part in self.middle:
            found = value.find(part, start, end)
            if found < 0:
                return False
            start = found + len(part)
        return True


@dataclass(frozen=True, slots=True)
class Node:
    """One compiled descriptor: its limit, and its children by exact entry, by pattern in file order, by bare key."""

    limit: Limit | None = None
    exact: Mapping[Entry, "Node"] = field(default_factory=dict)
    patterns: Mapping[str, tuple[tuple[Pattern, "Node"], ...]] = field(default_factory=dict)
    bare: Mapping[str, "Node"] = field(default_factory=dict)


def compile_config(config: QuotaConfig) -> Node:
    """Return the root of the domain's tree."""
    return _compile(config.descriptors, None)


def _compile(descriptors: tuple[ConfigDescriptor, ...], limit: Limit | None) -> Node:
    exact: dict[Entry, Node] = {}
    patterns: dict[str, tuple[tuple[Pattern, Node], ...]] = {}
    bare: dict[str, Node] = {}
    for descriptor in descriptors:
        node = _compile(descriptor.descriptors, descriptor.limit)
        if descriptor.value is None:
            bare[descriptor.key] = node
            continue
        exact[descriptor.key, descriptor.value] = node  # a pattern too: the value that spells it is its exact match
        if WILDCARD in descriptor.value:
            before = patterns.get(descriptor.key, ())
            patterns[descriptor.key] = (*before, (compile_pattern(descriptor.value), node))
    return Node(limit, exact, patterns, bare)


def compile_pattern(value: str) -> Pattern:
    """Return the pattern that `value`, which has at least one `*`, describes."""
    prefix, *middle, suffix = value.split(WILDCARD)
    return Pattern(prefix, tuple(part for part in middle if part), suffix)


def find_limit(root: Node, entries: Sequence[Entry]) -> Limit | None:
    """Return the limit of the node that `entries` lead to, None if they lead to none or to one without a limit.

    Each entry takes the child with its key and value; else the first pattern in file order that fits; else the child
    with the bare key. A choice is final, and a limit above the last entry does not apply (envoyproxy/ratelimit).
    """
    node: Node | None = root
    for entry in entries:
        if node is None:
            return None
        node = node.exact.get(entry) or _by_pattern(node, entry) or node.bare.get(entry[0])
    return node.limit if node else None


def _by_pattern(node: Node, entry: Entry) -> Node | None:
    for pattern, child in node.patterns.get(entry[0], ()):
        if pattern.matches(entry[1]):
            return child
    return None


def limits_of(root: Node, descriptors: Sequence[Descriptor]) -> tuple[Limit | None, ...]:
    """Return the limit of each descriptor of one request.

    An override holds in place of the configuration. A limit whose name another limit of the request replaces is
    dropped: its descriptor has none.
    """
    found = [descriptor.override or find_limit(root, descriptor.entries) for descriptor in descriptors]
    for limit in found:
        if limit is not None and limit.replaces:
            return _without_replaced(found)
    return tuple(found)


def _without_replaced(found: Sequence[Limit | None]) -> tuple[Limit | None, ...]:
    replaced = {name for limit in found if limit is not None for name in limit.replaces}
    return tuple(limit if limit is None or limit.name not in replaced else None for limit in found)
