"""The index: for a workload its rules, and for a request the few of them that can match.

An index never changes in meaning. A change of policies makes another one, which shares with it what the change did not
touch: policies are kept by namespace and selector, so that a change rebuilds the tables of one selector. A workload's
rules are the tables of the selectors that its labels have, put together on its first request.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

from app.authz.model import Action, Attribute, CheckInput, Labels, Workload
from app.authz.rules.compile import CompiledPolicy, CompiledRule
from app.authz.rules.hosts import authority_readings
from app.core.decision import Watch

# Workloads, by namespace and labels, whose rules are kept; beyond that all are dropped and made again. A mesh has
# fewer kinds of workloads than this, and hostile labels cannot take more memory.
MAX_WORKLOADS = 4096

Place = tuple[str, str, int]
"""Where a rule stands among those that are reported: namespace and name of its policy, its number there."""
Placed = tuple[Place, CompiledRule]
Table = Mapping[str, list[Placed]]

_ROOT_ONLY = ""
"""Stands for a namespace with the policies of the root namespace that are for workloads of that one alone."""
_ELSEWHERE = "*"
"""Stands for every namespace that has no policies of its own."""
_REST = ""
"""The one key of the rules that have none."""


class RuleTable:
    """Rules of one action, found by path, identity or host of a request."""

    def __init__(self, tables: Mapping[str, Table] | None = None) -> None:
        self._tables = tables or {}
        find = self._tables.get
        self._rest = find("rest", {}).get(_REST)
        self._paths, self._prefixes, self._by_path = find("path", {}), find("prefix", {}), find("by_path", {})
        self._lengths = _lengths(self._prefixes)
        self._hosts, self._host_prefixes = find("host", {}), find("host_prefix", {})
        self._host_lengths, self._by_host = _lengths(self._host_prefixes), find("by_host", {})
        self._principals, self._namespaces = find("principal", {}), find("namespace", {})
        self._by_identity = find("by_identity", {})
        self.is_empty = not any(self._tables.values())

    def changed(self, removed: Iterable[CompiledPolicy], added: Iterable[CompiledPolicy]) -> "RuleTable":
        """Return the table without the rules of `removed` and with those of `added`."""
        gone: set[tuple[str, str]] = set()
        touched: dict[str, dict[str, list[Placed]]] = {}
        for compiled in removed:
            gone.add((compiled.policy.namespace, compiled.policy.name))
            for table, key, _ in _entries(compiled):
                touched.setdefault(table, {}).setdefault(key, [])
        for compiled in added:
            for table, key, entry in _entries(compiled):
                touched.setdefault(table, {}).setdefault(key, []).append(entry)
        if not touched:
            return self
        return RuleTable({**self._tables, **{name: self._with(name, keys, gone) for name, keys in touched.items()}})

    def _with(self, name: str, touched: Mapping[str, list[Placed]], gone: set[tuple[str, str]]) -> Table:
        table = dict(self._tables.get(name, {}))
        for key, new in touched.items():
            entries = [entry for entry in table.get(key, ()) if entry[0][:2] not in gone] + new
            entries.sort(key=_place)
            if entries:
                table[key] = entries
            else:
                del table[key]
        return table

    def find(self, request: CheckInput, found: list[list[Placed]]) -> None:
        """Add the lists of the rules that can match to `found`."""
        if self._by_path:
            self._find_by_path(request.path if request.reading is None else request.reading, found)
        if self._by_identity:
            self._find_by_identity(request, found)
        if self._by_host:
            self._find_by_host(request.host, found)
        if self._rest:
            found.append(self._rest)

    def _find_by_path(self, path: str | None, found: list[list[Placed]]) -> None:
        if path is None:
            found.extend(self._by_path.values())
            return
        if path in self._paths:
            found.append(self._paths[path])
        # A path is cut once a length, not compared once a prefix.
        find = self._prefixes.get
        found.extend(rules for length in self._lengths if (rules := find(path[:length])))

    def _find_by_identity(self, request: CheckInput, found: list[list[Placed]]) -> None:
        source = request.source
        if source is None:
            found.extend(self._by_identity.values())
            return
        if self._principals:
            found.extend(self._principals[name] for name in source.principals if name in self._principals)
        if self._namespaces:
            found.extend(self._namespaces[name] for name in source.namespaces if name in self._namespaces)

    def _find_by_host(self, host: str | None, found: list[list[Placed]]) -> None:
        if host is None:
            found.extend(self._by_host.values())
            return
        readings = authority_readings(host)
        names = readings if len(readings) == 1 else dict.fromkeys(readings)
        hosts, find = self._hosts, self._host_prefixes.get
        for name in names:
            if name in hosts:
                found.append(hosts[name])
            found.extend(rules for length in self._host_lengths if (rules := find(name[:length])))


def _place(entry: Placed) -> Place:
    return entry[0]


def _lengths(prefixes: Iterable[str]) -> list[int]:
    return sorted(set(map(len, prefixes)))


def _entries(compiled: CompiledPolicy) -> Iterator[tuple[str, str, Placed]]:
    """Yield the name of a table and a key in it, wherever a rule of the policy is found.

    Where the attribute is missing all rules that are found by it are looked at: those are kept by policy.
    """
    namespace, name = compiled.policy.namespace, compiled.policy.name
    for number, rule in enumerate(compiled.rules):
        entry = (namespace, name, number), rule
        keys = rule.keys
        if keys is None:
            yield "rest", _REST, entry
            continue
        group, table, prefixes = _TABLES[keys.dimension]
        yield group, compiled.policy.key, entry
        for key in keys.exact:
            yield table, key, entry
        for prefix in dict.fromkeys(keys.prefixes):
            yield prefixes, prefix, entry


_TABLES = {
    Attribute.PATH: ("by_path", "path", "prefix"),
    Attribute.HOST: ("by_host", "host", "host_prefix"),
    Attribute.SOURCE_PRINCIPAL: ("by_identity", "principal", ""),
    Attribute.SOURCE_NAMESPACE: ("by_identity", "namespace", ""),
}
"""By attribute, the tables: of the rules by policy, by what it is, and by what it begins with."""


class RuleTables:
    """Rules of one action that apply to one workload, in the order of their policies' names."""

    def __init__(self, tables: Iterable[RuleTable]) -> None:
        self._tables = tuple(table for table in tables if not table.is_empty)
        self.is_empty = not self._tables

    def first(self, request: CheckInput) -> CompiledRule | None:
        """Return the first rule that matches, None if none does."""
        # Each list is in order, so that its first match is enough, and none behind the best one so far. To bring the
        # lists into one order would cost more than all their evaluations.
        best: Place | None = None
        first: CompiledRule | None = None
        for rules in self._candidates(request):
            for place, rule in rules:
                if best is not None and place >= best:
                    break
                if rule.node.holds(request):
                    best, first = place, rule
                    break
        return first

    def all(self, request: CheckInput) -> Iterator[CompiledRule]:
        """Yield the rules that match, in order."""
        candidates = sorted(chain.from_iterable(self._candidates(request)), key=_place)
        return (rule for _, rule in candidates if rule.node.holds(request))

    def _candidates(self, request: CheckInput) -> list[list[Placed]]:
        found: list[list[Placed]] = []
        for table in self._tables:
            table.find(request, found)
        return found


@dataclass(frozen=True, slots=True)
class WorkloadRules:
    """The rules that apply to one workload; `allow_headers` are the request headers that those of `allow` look at."""

    custom: RuleTables
    deny: RuleTables
    allow: RuleTables
    has_allow_policy: bool
    looks_at_methods: bool
    allow_headers: frozenset[str]
    watched: "WatchedRules | None" = None


@dataclass(frozen=True, slots=True)
class WatchedRules:
    """The rules that apply to one workload and decide nothing, by how it is recorded what they find.

    A dry run of ALLOW policies is there also if none of them has a rule.
    """

    rules: tuple[tuple[Watch, RuleTables], ...]


@dataclass(frozen=True, slots=True)
class _Selected:
    """The policies of one namespace with one selector: tables of their rules, and how many of them there are.

    `allow_headers` has how many ALLOW policies look at each request header.
    """

    custom: RuleTable = field(default_factory=RuleTable)
    deny: RuleTable = field(default_factory=RuleTable)
    allow: RuleTable = field(default_factory=RuleTable)
    watched: Mapping[Watch, "_Watched"] = field(default_factory=dict[Watch, "_Watched"])
    policies: int = 0
    allow_policies: int = 0
    looking_at_methods: int = 0
    allow_headers: Counter[str] = field(default_factory=Counter)

    @property
    def decides(self) -> bool:
        """Whether any of the policies does more than to be recorded."""
        return self.policies > sum(watched.policies for watched in self.watched.values())

    def changed(self, removed: list[CompiledPolicy], added: list[CompiledPolicy]) -> "_Selected":
        number = self.policies - len(removed) + len(added)
        watched = self._watched(removed, added)
        removed, added = ([each for each in policies if each.policy.watch is None] for policies in (removed, added))
        custom, deny, allow = (
            [[each for each in policies if each.policy.action is action] for policies in (removed, added)]
            for action in (Action.CUSTOM, Action.DENY, Action.ALLOW)
        )
        headers = [Counter(chain.from_iterable(each.headers for each in policies)) for policies in allow]
        methods = [sum(each.looks_at_methods for each in policies) for policies in (removed, added)]
        return _Selected(
            self.custom.changed(*custom),
            self.deny.changed(*deny),
            self.allow.changed(*allow),
            watched,
            number,
            self.allow_policies - len(allow[0]) + len(allow[1]),
            self.looking_at_methods - methods[0] + methods[1],
            self.allow_headers - headers[0] + headers[1],
        )

    def _watched(self, removed: list[CompiledPolicy], added: list[CompiledPolicy]) -> Mapping[Watch, "_Watched"]:
        found = dict(self.watched)
        for watch in {watch for each in (*removed, *added) if (watch := each.policy.watch)}:
            change = ([each for each in policies if each.policy.watch is watch] for policies in (removed, added))
            found[watch] = found.get(watch, _Watched()).changed(*change)
        return {watch: each for watch, each in found.items() if each.policies}


@dataclass(frozen=True, slots=True)
class _Watched:
    """The rules of policies that decide nothing, and how many policies there are."""

    table: RuleTable = field(default_factory=RuleTable)
    policies: int = 0

    def changed(self, removed: list[CompiledPolicy], added: list[CompiledPolicy]) -> "_Watched":
        return _Watched(self.table.changed(removed, added), self.policies - len(removed) + len(added))


Namespace = Mapping[Labels, _Selected]
"""The policies of a namespace by their selectors."""


@dataclass(frozen=True, slots=True)
class _Scope:
    """The policies of one namespace together with the root namespace's.

    `pairs` are the labels that any of them selects by; workloads that have the same of these share their rules.
    `labels_decide`: one of those that select by labels decides something.
    """

    selected: tuple[tuple[Labels, _Selected], ...]
    pairs: frozenset[tuple[str, str]]
    labels_decide: bool
    made: dict[Labels, WorkloadRules] = field(default_factory=dict)
    made_for: dict[frozenset[tuple[str, str]], WorkloadRules] = field(default_factory=dict)


class PolicyIndex:
    """Policies by the workloads that they are for; `root` is the root namespace."""

    def __init__(self, policies: Iterable[CompiledPolicy], root: str) -> None:
        self._root = root
        self._namespaces: dict[str, Namespace] = {}
        self._scopes: dict[str, _Scope] = {}
        self._update((), policies)
        self._kept = 0

    def changed(self, removed: Iterable[CompiledPolicy], added: Iterable[CompiledPolicy]) -> "PolicyIndex":
        """Return the index without the policies `removed` and with those `added`; this one stays as it is."""
        index = PolicyIndex((), self._root)
        # Copies are made in one step each: checks add scopes meanwhile.
        index._namespaces, index._scopes = dict(self._namespaces), dict(self._scopes)
        index._update(removed, added)
        index._kept = sum(len(scope.made) for scope in index._scopes.values())
        return index

    def _update(self, removed: Iterable[CompiledPolicy], added: Iterable[CompiledPolicy]) -> None:
        changes: dict[str, dict[Labels, tuple[list[CompiledPolicy], list[CompiledPolicy]]]] = {}
        for number, policies in enumerate((removed, added)):
            for each in policies:
                policy = each.policy
                for scope in policy.scopes:
                    namespace = _ROOT_ONLY if scope.local and policy.namespace == self._root else policy.namespace
                    changes.setdefault(namespace, {}).setdefault(scope.labels, ([], []))[number].append(each)
        for namespace, selectors in changes.items():
            found = dict(self._namespaces.get(namespace, {}))
            for selector, change in selectors.items():
                found[selector] = found.get(selector, _Selected()).changed(*change)
            self._namespaces[namespace] = {key: selected for key, selected in found.items() if selected.policies}
            self._scopes.pop(self._root if namespace == _ROOT_ONLY else namespace, None)
        if self._root in changes:
            self._scopes.clear()

    def selects_by_labels(self, namespace: str) -> bool:
        """Whether a workload's labels decide which policies are for it."""
        return self._scope(namespace).labels_decide

    def rules_for(self, workload: Workload) -> WorkloadRules:
        """Return the rules for `workload`; without labels, only those of policies without a selector."""
        scope = self._scope(workload.namespace)
        labels = (workload.labels or ()) if scope.pairs else ()
        rules = scope.made.get(labels)
        return self._make(scope, labels) if rules is None else rules

    def root_rules(self) -> WorkloadRules:
        """Return the root namespace's rules, for a workload that is missing."""
        return self.rules_for(Workload(self._root))

    def _scope(self, namespace: str) -> _Scope:
        scope = self._scopes.get(namespace)
        if scope is None:
            if namespace != self._root and not self._namespaces.get(namespace):
                namespace = _ELSEWHERE
            scope = self._scopes.get(namespace) or self._scopes.setdefault(namespace, self._made_scope(namespace))
        return scope

    def _made_scope(self, namespace: str) -> _Scope:
        names = (self._root, _ROOT_ONLY if namespace == self._root else namespace)
        selected = tuple(chain.from_iterable(self._namespaces.get(name, {}).items() for name in names))
        pairs = frozenset(pair for selector, _ in selected for pair in selector)
        return _Scope(selected, pairs, any(selector and each.decides for selector, each in selected))

    def _make(self, scope: _Scope, labels: Labels) -> WorkloadRules:
        if self._kept >= MAX_WORKLOADS:
            for each in self._scopes.values():
                each.made.clear()
                each.made_for.clear()
            self._kept = 0
        pairs = scope.pairs.intersection(labels)
        rules = scope.made_for.get(pairs)
        if rules is None:
            rules = _rules_of([selected for selector, selected in scope.selected if pairs.issuperset(selector)])
            scope.made_for[pairs] = rules
        scope.made[labels] = rules
        self._kept += 1
        return rules


def _rules_of(selected: list[_Selected]) -> WorkloadRules:
    return WorkloadRules(
        RuleTables(each.custom for each in selected),
        RuleTables(each.deny for each in selected),
        RuleTables(each.allow for each in selected),
        any(each.allow_policies for each in selected),
        any(each.looking_at_methods for each in selected),
        frozenset(chain.from_iterable(each.allow_headers for each in selected)),
        _watched_of(selected),
    )


def _watched_of(selected: list[_Selected]) -> WatchedRules | None:
    tables: dict[Watch, list[RuleTable]] = {}
    for watch, watched in chain.from_iterable(each.watched.items() for each in selected):
        tables.setdefault(watch, []).append(watched.table)
    in_order = ((watch, RuleTables(tables[watch])) for watch in Watch if watch in tables)
    return WatchedRules(tuple(in_order)) if tables else None
