"""The index: for a workload the tables of its rules, in which those are found that can match a request.

An index never changes in meaning. A change of policies makes another one, which shares with it what the change did not
touch: policies are kept by namespace and selector, so that a change rebuilds the tables of one selector. A workload's
rules are the tables of the selectors that its labels have, put together on its first request.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from app.authz.model import CheckInput, Labels, Workload
from app.authz.rules.candidates import (
    ALLOW,
    CUSTOM,
    DRY_RUN_ALLOW,
    DRY_RUN_DENY,
    WATCHES,
    Candidates,
    OfRole,
    RuleTable,
    role_of,
)
from app.authz.rules.compile import CompiledPolicy
from app.core.decision import Watch

# Workloads, by namespace and labels, whose rules are kept; beyond that all are dropped and made again. A mesh has
# fewer kinds of workloads than this, and hostile labels cannot take more memory.
MAX_WORKLOADS = 4096

# Shortlists that are kept; beyond that all are dropped and made again. A mesh has fewer pairs of workloads that talk to
# each other, and hosts and methods that clients make up cannot take more memory.
MAX_SHORTLISTS = 4096
# A host that is longer than a DNS name with a port is one that a client made up.
MAX_HOST_LENGTH = 261

_ROOT_ONLY = ""
"""Stands for a namespace with the policies of the root namespace that are for workloads of that one alone."""
_ELSEWHERE = "*"
"""Stands for every namespace that has no policies of its own."""


@dataclass(frozen=True, slots=True)
class WorkloadRules:
    """The rules that apply to one workload; `allow_headers` are the request headers that those of ALLOW look at.

    `watches` are those of policies that decide nothing, also of such without a rule, each with its role.
    """

    candidates: Candidates
    has_custom_policy: bool
    has_allow_policy: bool
    has_dry_run: bool
    looks_at_methods: bool
    allow_headers: frozenset[str]
    watches: tuple[tuple[Watch, int], ...]


@dataclass(frozen=True, slots=True)
class Shortlist:
    """The rules of a workload, and in `found` those that can match requests of one peer, for one host, by one method.

    `found` has none of those that are found by a path.
    """

    rules: WorkloadRules
    found: list[OfRole]


@dataclass(frozen=True, slots=True)
class _Selected:
    """The policies of one namespace with one selector: the table of their rules, and how many of them have each role.

    `looking_at_methods` are how many of them do, and `allow_headers` has how many ALLOW policies look at each request
    header.
    """

    table: RuleTable = field(default_factory=RuleTable)
    policies: Counter[int] = field(default_factory=Counter)
    looking_at_methods: int = 0
    allow_headers: Counter[str] = field(default_factory=Counter)

    @property
    def decides(self) -> bool:
        """Whether any of the policies does more than to be recorded."""
        return any(role not in WATCHES.values() for role in self.policies)

    def changed(self, removed: Sequence[CompiledPolicy], added: Sequence[CompiledPolicy]) -> "_Selected":
        roles, methods, headers = Counter(self.policies), self.looking_at_methods, Counter(self.allow_headers)
        for policies, change in ((removed, -1), (added, 1)):
            for each in policies:
                role = role_of(each.policy)
                roles[role] += change
                if role == ALLOW:
                    headers.update(dict.fromkeys(each.headers, change))
                methods += change * each.looks_at_methods
        return _Selected(self.table.changed(removed, added), +roles, methods, +headers)


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
        self._shortlists: dict[object, Shortlist] = {}
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

    def shortlist(self, workload: Workload, request: CheckInput) -> Shortlist:
        """Return the rules of a workload that can match a request, but for those that are found by its path."""
        source, host, method = request.connection.source, request.host, request.method
        # An identity is what its names make of it.
        key = workload.namespace, workload.labels, None if source is None else source.names, host, method
        return self._shortlists.get(key) or self._make_shortlist(key, workload, request)

    def _make_shortlist(self, key: object, workload: Workload, request: CheckInput) -> Shortlist:
        rules = self.rules_for(workload)
        made = Shortlist(rules, rules.candidates.without_path(request))
        if request.host is None or len(request.host) <= MAX_HOST_LENGTH:
            if len(self._shortlists) >= MAX_SHORTLISTS:
                self._shortlists.clear()
            self._shortlists[key] = made
        return made

    def rules_for(self, workload: Workload) -> WorkloadRules:
        """Return the rules for `workload`; without labels, only those of policies without a selector."""
        scope = self._scopes.get(workload.namespace) or self._scope(workload.namespace)
        labels = (workload.labels or ()) if scope.pairs else ()
        rules = scope.made.get(labels)
        return self._make(scope, labels) if rules is None else rules

    @property
    def root(self) -> Workload:
        """What stands for a workload that is missing: the root namespace's policies apply to it."""
        return Workload(self._root)

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
    roles = set(chain.from_iterable(each.policies for each in selected))
    return WorkloadRules(
        Candidates(each.table for each in selected),
        CUSTOM in roles,
        ALLOW in roles,
        not roles.isdisjoint({DRY_RUN_DENY, DRY_RUN_ALLOW}),
        any(each.looking_at_methods for each in selected),
        frozenset(chain.from_iterable(each.allow_headers for each in selected)),
        tuple((watch, role) for watch, role in WATCHES.items() if role in roles),
    )
