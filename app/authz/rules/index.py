"""The index: for a workload its rules, and for a request the few of them that can match.

An index is a snapshot that never changes in meaning; the tables of a workload are made on its first request and kept.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain

from app.authz.model import Action, Attribute, CheckInput, Labels, Workload
from app.authz.rules.compile import CompiledPolicy, CompiledRule
from app.authz.rules.hosts import authority_readings

# Workloads, by namespace and labels, whose tables are kept; beyond that all are dropped and made again. A mesh has
# fewer kinds of workloads than this, and hostile labels cannot take more memory.
MAX_WORKLOADS = 4096

Numbered = tuple[int, CompiledRule]
Table = dict[str, list[Numbered]]


class RuleTable:
    """Rules in the order in which they are reported, found by path, identity or host of a request."""

    def __init__(self, rules: Iterable[CompiledRule]) -> None:
        numbered = list(enumerate(rules))
        self._rest = [entry for entry in numbered if entry[1].keys is None]
        self._by_path = _looked_up_by(numbered, Attribute.PATH)
        self._by_host = _looked_up_by(numbered, Attribute.HOST)
        self._by_identity = _looked_up_by(numbered, Attribute.SOURCE_PRINCIPAL, Attribute.SOURCE_NAMESPACE)
        self._paths, self._prefixes = _table(self._by_path), _prefix_tables(self._by_path)
        self._hosts = _table(self._by_host)
        self._principals = _table(_looked_up_by(numbered, Attribute.SOURCE_PRINCIPAL))
        self._namespaces = _table(_looked_up_by(numbered, Attribute.SOURCE_NAMESPACE))
        self.is_empty = not numbered

    def first(self, request: CheckInput) -> CompiledRule | None:
        """Return the first rule that matches, None if none does."""
        for _, rule in self._candidates(request):
            if rule.node.holds(request):
                return rule
        return None

    def _candidates(self, request: CheckInput) -> list[Numbered]:
        found = [self._rest] if self._rest else []
        if self._by_path:
            self._find_by_path(request.path if request.reading is None else request.reading, found)
        if self._by_identity:
            self._find_by_identity(request, found)
        if self._by_host:
            self._find_by_host(request.host, found)
        match found:
            case []:
                return []
            case [only]:
                return only
            case _:
                return sorted(chain.from_iterable(found), key=_number)

    def _find_by_path(self, path: str | None, found: list[list[Numbered]]) -> None:
        if path is None:
            found.append(self._by_path)
            return
        if path in self._paths:
            found.append(self._paths[path])
        for length, table in self._prefixes:
            if rules := table.get(path[:length]):
                found.append(rules)

    def _find_by_identity(self, request: CheckInput, found: list[list[Numbered]]) -> None:
        source = request.source
        if source is None:
            found.append(self._by_identity)
            return
        if source.principal in self._principals:
            found.append(self._principals[source.principal])
        if self._namespaces:
            found.extend(self._namespaces[name] for name in source.namespaces if name in self._namespaces)

    def _find_by_host(self, host: str | None, found: list[list[Numbered]]) -> None:
        if host is None:
            found.append(self._by_host)
            return
        found.extend(self._hosts[name] for name in set(authority_readings(host)) if name in self._hosts)


def _number(entry: Numbered) -> int:
    return entry[0]


def _looked_up_by(numbered: Iterable[Numbered], *dimensions: Attribute) -> list[Numbered]:
    return [entry for entry in numbered if (keys := entry[1].keys) and keys.dimension in dimensions]


def _table(entries: Iterable[Numbered]) -> Table:
    table: Table = {}
    for entry in entries:
        for key in entry[1].keys.exact if entry[1].keys else ():
            table.setdefault(key, []).append(entry)
    return table


def _prefix_tables(entries: Iterable[Numbered]) -> list[tuple[int, Table]]:
    """Return a table for each length of prefix, so that a path is cut once a length, not compared once a prefix."""
    tables: dict[int, Table] = {}
    for entry in entries:
        for prefix in dict.fromkeys(entry[1].keys.prefixes) if entry[1].keys else ():
            tables.setdefault(len(prefix), {}).setdefault(prefix, []).append(entry)
    return sorted(tables.items())


@dataclass(frozen=True, slots=True)
class WorkloadRules:
    """The rules that apply to one workload; `allow_headers` are the request headers that those of `allow` look at."""

    deny: RuleTable
    allow: RuleTable
    has_allow_policy: bool
    looks_at_methods: bool
    allow_headers: frozenset[str]

    @staticmethod
    def of(policies: Iterable[CompiledPolicy]) -> "WorkloadRules":
        """Put the rules of `policies` into tables, in the order of the policies' names."""
        applied = sorted(policies, key=lambda compiled: (compiled.policy.namespace, compiled.policy.name))
        allowing = [compiled for compiled in applied if compiled.policy.action is Action.ALLOW]
        denying = [compiled for compiled in applied if compiled.policy.action is Action.DENY]
        return WorkloadRules(
            RuleTable(rule for policy in denying for rule in policy.rules),
            RuleTable(rule for policy in allowing for rule in policy.rules),
            bool(allowing),
            any(policy.looks_at_methods for policy in applied),
            frozenset[str]().union(*(policy.headers for policy in allowing)),
        )


@dataclass(frozen=True, slots=True)
class _Scope:
    """The policies of one namespace together with the root namespace's.

    `selected` are the labels that any of them selects by; workloads that have the same of these share their tables.
    """

    policies: tuple[CompiledPolicy, ...]
    selected: frozenset[tuple[str, str]]
    made: dict[Labels, WorkloadRules] = field(default_factory=dict)
    made_for: dict[frozenset[tuple[str, str]], WorkloadRules] = field(default_factory=dict)


class PolicyIndex:
    """`policies` by the workloads that they are for; `root` is the root namespace."""

    def __init__(self, policies: Iterable[CompiledPolicy], root: str) -> None:
        self._root = root
        by_namespace: dict[str, list[CompiledPolicy]] = {root: []}
        for compiled in policies:
            by_namespace.setdefault(compiled.policy.namespace, []).append(compiled)
        everywhere = by_namespace[root]
        self._scopes = {
            namespace: _scope(everywhere if namespace == root else [*everywhere, *own])
            for namespace, own in by_namespace.items()
        }
        self._kept = 0

    def selects_by_labels(self, namespace: str) -> bool:
        """Whether a workload's labels decide which policies are for it."""
        return bool(self._scope(namespace).selected)

    def rules_for(self, workload: Workload) -> WorkloadRules:
        """Return the rules for `workload`; without labels, only those of policies without a selector."""
        scope = self._scope(workload.namespace)
        labels = (workload.labels or ()) if scope.selected else ()
        rules = scope.made.get(labels)
        return self._make(scope, labels) if rules is None else rules

    def root_rules(self) -> WorkloadRules:
        """Return the root namespace's rules, for a workload that is missing."""
        return self.rules_for(Workload(self._root))

    def _scope(self, namespace: str) -> _Scope:
        return self._scopes.get(namespace) or self._scopes[self._root]

    def _make(self, scope: _Scope, labels: Labels) -> WorkloadRules:
        if self._kept >= MAX_WORKLOADS:
            for each in self._scopes.values():
                each.made.clear()
                each.made_for.clear()
            self._kept = 0
        pairs = scope.selected.intersection(labels)
        rules = scope.made_for.get(pairs)
        if rules is None:
            rules = WorkloadRules.of(policy for policy in scope.policies if pairs.issuperset(policy.policy.selector))
            scope.made_for[pairs] = rules
        scope.made[labels] = rules
        self._kept += 1
        return rules


def _scope(policies: Iterable[CompiledPolicy]) -> _Scope:
    found = tuple(policies)
    return _Scope(found, frozenset(pair for compiled in found for pair in compiled.policy.selector))
