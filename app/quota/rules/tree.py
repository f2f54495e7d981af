"""A domain's configuration as a tree, which a descriptor walks once and never back to the limit that applies to it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

from app.quota.model import Algorithm, ConfigDescriptor, Entry, Limit, LimitId, Modes, QuotaConfig, RateLimit, Unit
from app.quota.rules.algorithms import algorithm_of, counter_kind

WILDCARD = "*"
NO_MODES = Modes()
# Bytes of a LimitId: a collision would need 2^80 limits.
_ID_BYTES = 20


class CountedLimit(NamedTuple):
    """A limit that hits are counted under, the name that metrics have for it, and the last hits that are near to it."""

    limit: RateLimit
    rule: str
    near: int


@dataclass(frozen=True, slots=True)
class Pattern:
    """A value with wildcards, `text`: `prefix`, each of `middle` in order, and `suffix`, with anything between them."""

    text: str
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
class AppliedLimit:
    """A limit as it applies to a descriptor: with its identity and its algorithm, None if it is `Unlimited`.

    `shared` are the places in the descriptor whose values count together, each with the pattern that stands for them.
    `rule` is what metrics call the limit; `levels` is None, or what of that comes from each entry of the descriptor,
    where None stands for its key and, unless it is empty, its value. No levels stand for all keys and values. `counted`
    is what metrics need to know, None if that depends on the descriptor.
    """

    limit: Limit
    limit_id: LimitId
    algorithm: Algorithm | None
    rule: str = ""
    shared: tuple[tuple[int, str], ...] = ()
    levels: tuple[str | None, ...] | None = None
    counted: CountedLimit | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """One compiled descriptor: its limit, and its children by exact entry, by pattern in file order, by bare key."""

    limit: AppliedLimit | None = None
    exact: Mapping[Entry, "Node"] = field(default_factory=dict)
    patterns: Mapping[str, Sequence[tuple[Pattern, "Node"]]] = field(default_factory=dict)
    bare: Mapping[str, "Node"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CompiledConfig:
    """A domain's tree and the identities of its limits; `overrides` are those of the limits that requests bring.

    What is over `near_ratio` of a limit is near to it. `independent` is whether no limit replaces another, so that each
    descriptor of a request has its limit whatever the others are. `rules` are the names of the limits in metrics, but
    for those that take values of requests.
    """

    domain: str
    root: Node
    limits: frozenset[LimitId]
    overrides: Mapping[Unit | None, LimitId]
    rules: frozenset[str]
    near_ratio: float
    independent: bool


class _Level(NamedTuple):
    """One step of the way to a limit: the descriptor's key, its value, and its flags."""

    key: str
    value: str | None
    share: bool
    by_value: bool

    @property
    def name(self) -> str:
        return f"{self.key}_{self.value}" if self.value else self.key


@dataclass(frozen=True, slots=True)
class _Compiler:
    """Compiles one domain, and collects the identities of its limits and their names in metrics."""

    domain: str
    near_ratio: float
    limits: set[LimitId] = field(default_factory=set)
    rules: set[str] = field(default_factory=set)
    replacing: set[LimitId] = field(default_factory=set)

    def compile(
        self, place: LimitId, way: tuple[_Level, ...], node: ConfigDescriptor | None, below: Sequence[ConfigDescriptor]
    ) -> Node:
        """Return the node at `place`, which `way` leads to; None is the root."""
        exact: dict[Entry, Node] = {}
        patterns: dict[str, list[tuple[Pattern, Node]]] = {}
        bare: dict[str, Node] = {}
        for descriptor in below:
            key, value = descriptor.key, descriptor.value
            by_value = descriptor.value_to_metric and (value is None or WILDCARD in value)
            level = _Level(key, value, descriptor.share_threshold, by_value)
            child = self.compile(_id_of(place, "entry", key, value), (*way, level), descriptor, descriptor.descriptors)
            if value is None:
                bare[key] = child
                continue
            exact[key, value] = child  # a pattern too: the value that spells it is its exact match
            if WILDCARD in value:
                patterns.setdefault(key, []).append((compile_pattern(value), child))
        return Node(self._apply(place, way, node) if node else None, exact, patterns, bare)

    def _apply(self, place: LimitId, way: tuple[_Level, ...], node: ConfigDescriptor) -> AppliedLimit | None:
        limit = node.limit
        if limit is None:
            return None
        kind, algorithm = (counter_kind(limit), algorithm_of(limit)) if isinstance(limit, RateLimit) else (None, None)
        limit_id = _id_of(place, "limit", kind)
        self.limits.add(limit_id)
        if limit.replaces:
            self.replacing.add(limit_id)
        shared = tuple((index, level.value) for index, level in enumerate(way) if level.share and level.value)
        rule = ".".join((self.domain, *(level.name for level in way)))
        levels = _levels(way, node)
        counted = None
        if levels is None:
            self.rules.add(rule)
            counted = counted_limit(limit, rule, self.near_ratio) if isinstance(limit, RateLimit) else None
        return AppliedLimit(limit, limit_id, algorithm, rule, shared, levels, counted)


def _levels(way: tuple[_Level, ...], node: ConfigDescriptor) -> tuple[str | None, ...] | None:
    """Return the `levels` of an AppliedLimit, as envoyproxy/ratelimit has them."""
    detailed = node.detailed_metric
    if detailed and not any(level.share for level in way):
        return ()
    levels = tuple(None if not level.share and (detailed or level.by_value) else level.name for level in way)
    return levels if None in levels else None


def counted_limit(limit: RateLimit, rule: str, near_ratio: float) -> CountedLimit:
    """Return what metrics need to know of `limit`; what is over `near_ratio` of it is near to it."""
    most = limit.requests_per_unit
    return CountedLimit(limit, rule, most - int(most * near_ratio))


def compile_config(config: QuotaConfig, near_ratio: float = NO_MODES.near_ratio) -> CompiledConfig:
    """Return the configuration of a domain as a tree."""
    place = _id_of("", config.domain)
    overrides: dict[Unit | None, LimitId] = {unit: _id_of(place, "override", unit.name) for unit in Unit}
    compiler = _Compiler(config.domain, near_ratio, set(overrides.values()))
    root = compiler.compile(place, (), None, config.descriptors)
    limits, rules = frozenset(compiler.limits), frozenset(compiler.rules)
    return CompiledConfig(config.domain, root, limits, overrides, rules, near_ratio, not compiler.replacing)


def _id_of(place: LimitId, *parts: str | None) -> LimitId:
    """Return the identity of what `parts` name at `place`. It has one size at any depth and with any text."""
    return blake2b(json.dumps([place, *parts]).encode(), digest_size=_ID_BYTES).hexdigest()


def compile_pattern(value: str) -> Pattern:
    """Return the pattern that `value`, which has at least one `*`, describes."""
    prefix, *middle, suffix = value.split(WILDCARD)
    return Pattern(value, prefix, tuple(part for part in middle if part), suffix)


def find_limit(root: Node, entries: Sequence[Entry]) -> AppliedLimit | None:
    """Return the limit of the node that `entries` lead to, None if they lead to none or to one without a limit.

    Each entry takes the child with its key and value; else the first pattern in file order that fits; else the child
    with the bare key. A choice is final, and a limit above the last entry does not apply (envoyproxy/ratelimit).
    """
    node: Node | None = root
    for entry in entries:
        if node is None:
            return None
        child = node.exact.get(entry)
        if child is None and node.patterns:
            child = _by_pattern(node, entry)
        node = node.bare.get(entry[0]) if child is None else child
    return node.limit if node else None


def _by_pattern(node: Node, entry: Entry) -> Node | None:
    for pattern, child in node.patterns.get(entry[0], ()):
        if pattern.matches(entry[1]):
            return child
    return None
