"""The candidates: the few rules that can match a request, found by its path, identity and host.

A table has the rules of every role, so that a request is looked up once, whatever its workload's policies do.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType

from app.authz.model import Action, Attribute, AuthorizationPolicy, CheckInput
from app.authz.rules.compile import CompiledPolicy, CompiledRule, Place
from app.authz.rules.hosts import authority_readings
from app.authz.rules.keys import DIMENSIONS
from app.core.decision import Watch

CUSTOM, DENY, ALLOW, AUDIT, DRY_RUN_DENY, DRY_RUN_ALLOW = ROLES = range(6)
"""What the rules of a policy are for."""
WATCHES = {Watch.AUDIT: AUDIT, Watch.DRY_RUN_DENY: DRY_RUN_DENY, Watch.DRY_RUN_ALLOW: DRY_RUN_ALLOW}
"""The roles of policies that decide nothing."""
_ACTIONS = {Action.CUSTOM: CUSTOM, Action.DENY: DENY, Action.ALLOW: ALLOW}

OfRole = tuple[int, tuple[CompiledRule, ...]]
"""A role, and rules of it in the order of their places."""
Bucket = tuple[OfRole, ...]
"""The rules that are found by one key, by the roles that have some."""
Table = Mapping[str, Bucket]
TableName = tuple[Attribute | None, str]
"""What the rules in a table are found by, None for those that any request can match, and how."""

_EXACT, _PREFIX, _BY_POLICY = "exact", "prefix", "by policy"
_REST = ""
"""The one key of the rules that any request can match."""
_EMPTY: Bucket = ()

Matched = Sequence[CompiledRule | None]
"""The first rule of each role that matches a reading of a request, by role; None for one of which none does."""
Reading = tuple[CheckInput, Matched]
_NONE: Matched = (None,) * len(ROLES)


def role_of(policy: AuthorizationPolicy) -> int:
    """Return what the rules of the policy are for."""
    return _ACTIONS[policy.action] if policy.watch is None else WATCHES[policy.watch]


class Prefixes:
    """Buckets by what a text begins with, found by a search in the sorted prefixes, however many they are.

    Of the prefixes that are not above a text in their order, the last one begins with every prefix of the text. For
    each, in this order, `nested` has its bucket and where the next shorter one that it begins with is, -1 for none.
    """

    __slots__ = ("nested", "ordered", "table")

    def __init__(self, table: Table, ordered: Sequence[str] = ()) -> None:
        """Sort the prefixes of a table; most of them are in order if they are so in `ordered`."""
        self.table = table
        known = [prefix for prefix in ordered if prefix in table]
        self.ordered: list[str] = sorted([*known, *(table.keys() - known)])
        self.nested: list[tuple[str, Bucket, int]] = []
        for prefix in self.ordered:
            outer = len(self.nested) - 1
            while outer >= 0 and not prefix.startswith(self.nested[outer][0]):
                outer = self.nested[outer][2]
            self.nested.append((prefix, table[prefix], outer))

    def changed(self, table: Table) -> "Prefixes":
        """Return the prefixes of a table that was made of this one."""
        return self if table is self.table else Prefixes(table, self.ordered)


_NO_PREFIXES = Prefixes({})


@dataclass(frozen=True, slots=True)
class Lookup:
    """Rules by one attribute of a request, one of DIMENSIONS.

    They are found by what it is and by what it begins with. Where it is missing, all of them are looked at: those are
    kept by policy.
    """

    dimension: Attribute
    exact: Table
    prefixes: Prefixes
    by_policy: Table

    def add_to(self, found: list[OfRole], text: str) -> None:
        """Append the rules for an attribute that is the text."""
        found += self.exact.get(text, _EMPTY)
        prefixes = self.prefixes
        place = bisect_right(prefixes.ordered, text) - 1
        while place >= 0:
            prefix, bucket, place = prefixes.nested[place]
            if text.startswith(prefix):
                found += bucket

    @property
    def everything(self) -> Iterator[OfRole]:
        """The rules for an attribute that is missing."""
        return chain.from_iterable(self.by_policy.values())


class RuleTable:
    """Rules by the attributes of the requests that they can match; `rest` are those that any request can match."""

    def __init__(
        self,
        tables: Mapping[TableName, Table] | None = None,
        prefixes: Mapping[Attribute, Prefixes] = MappingProxyType({}),
    ) -> None:
        """Make the lookups of the tables, with the prefixes that were sorted before some of them changed."""
        self._tables = tables or {}
        self.rest = self._find(None, _EXACT).get(_REST, _EMPTY)
        self._prefixes = {
            dimension: prefixes[dimension].changed(table) if dimension in prefixes else Prefixes(table)
            for dimension in DIMENSIONS
            if (table := self._find(dimension, _PREFIX))
        }
        self.lookups = tuple(
            Lookup(dimension, self._find(dimension, _EXACT), self._prefixes.get(dimension, _NO_PREFIXES), by_policy)
            for dimension in DIMENSIONS
            if (by_policy := self._find(dimension, _BY_POLICY))
        )

    def _find(self, dimension: Attribute | None, kind: str) -> Table:
        return self._tables.get((dimension, kind), {})

    def changed(self, removed: Iterable[CompiledPolicy], added: Iterable[CompiledPolicy]) -> "RuleTable":
        """Return the table without the rules of `removed` and with those of `added`."""
        gone: set[tuple[str, str]] = set()
        touched: dict[TableName, dict[str, list[tuple[int, CompiledRule]]]] = {}
        for compiled in removed:
            gone.add((compiled.policy.namespace, compiled.policy.name))
            for table, key, _ in _entries(compiled):
                touched.setdefault(table, {}).setdefault(key, [])
        for compiled in added:
            role = role_of(compiled.policy)
            for table, key, rule in _entries(compiled):
                touched.setdefault(table, {}).setdefault(key, []).append((role, rule))
        changed = {name: self._with(name, keys, gone) for name, keys in touched.items()}
        return RuleTable({**self._tables, **changed}, self._prefixes)

    def _with(
        self, name: TableName, touched: Mapping[str, list[tuple[int, CompiledRule]]], gone: set[tuple[str, str]]
    ) -> Table:
        table = dict(self._tables.get(name, {}))
        for key, new in touched.items():
            bucket = _changed(table.get(key, _EMPTY), new, gone)
            if bucket:
                table[key] = bucket
            else:
                del table[key]
        return table


class Candidates:
    """Finds the rules that can match a request in several tables: first by all but its path, then by that."""

    def __init__(self, tables: Iterable[RuleTable]) -> None:
        self.tables = tuple(tables)
        self._rest = list(chain.from_iterable(table.rest for table in self.tables))
        lookups = [lookup for table in self.tables for lookup in table.lookups]
        self._by_path = tuple(lookup for lookup in lookups if lookup.dimension is Attribute.PATH)
        self._others = tuple(lookup for lookup in lookups if lookup.dimension is not Attribute.PATH)

    def without_path(self, request: CheckInput) -> list[OfRole]:
        """Return the rules that can match requests of the same peer, for the same host and by the same method.

        Those that are found by a path are not among them.
        """
        found = self._rest.copy()
        source, host = request.connection.source, request.host
        texts = {
            Attribute.SOURCE_PRINCIPAL: None if source is None else source.principals,
            Attribute.HOST: None if host is None else authority_readings(host),
            Attribute.SOURCE_NAMESPACE: None if source is None else source.namespaces,
        }
        for lookup in self._others:
            named = texts[lookup.dimension]
            if named is None:
                found += lookup.everything
            else:
                for text in named:
                    lookup.add_to(found, text)
        return [(role, left) for role, rules in found if (left := _left(rules, request))]

    def of(self, request: CheckInput, shortlist: list[OfRole]) -> list[OfRole]:
        """Return the rules that can match a request, where `shortlist` are those that are not found by its path."""
        if not self._by_path:
            return shortlist
        found = shortlist.copy()
        path = request.path if request.reading is None else request.reading
        for lookup in self._by_path:
            if path is None:
                found += lookup.everything
            else:
                lookup.add_to(found, path)
        return found

    def first_matches(self, request: CheckInput, shortlist: list[OfRole]) -> Matched:
        """Return the first rule of each role that matches."""
        # Each list is in order, so that its first match is enough, and none behind the best one so far. To bring the
        # lists into one order would cost more than all their evaluations.
        matched = [*_NONE]
        for role, rules in self.of(request, shortlist):
            best = matched[role]
            for rule in rules:
                if best is not None and rule.place >= best.place:
                    break
                if rule.holds(request):
                    matched[role] = rule
                    break
        return matched

    def matches(self, role: int, request: CheckInput) -> Iterator[CompiledRule]:
        """Yield the rules of a role that match, in order."""
        of_role = (rules for each, rules in self.of(request, self.without_path(request)) if each == role)
        return (rule for rule in sorted(chain.from_iterable(of_role), key=_place) if rule.holds(request))


def _left(rules: Iterable[CompiledRule], request: CheckInput) -> tuple[CompiledRule, ...]:
    return tuple(rule for rule in rules if rule.premise is None or rule.premise(request))


def _place(rule: CompiledRule) -> Place:
    return rule.place


def _changed(bucket: Bucket, new: list[tuple[int, CompiledRule]], gone: set[tuple[str, str]]) -> Bucket:
    """Return the bucket without the rules of the policies `gone` and with the new ones of each role."""
    rules: dict[int, list[CompiledRule]] = {
        role: [rule for rule in of_role if rule.place[:2] not in gone] for role, of_role in bucket
    }
    for role, rule in new:
        rules.setdefault(role, []).append(rule)
    return tuple((role, tuple(sorted(rules[role], key=_place))) for role in ROLES if rules.get(role))


def _entries(compiled: CompiledPolicy) -> Iterator[tuple[TableName, str, CompiledRule]]:
    """Yield the name of a table and a key in it, wherever a rule of the policy is found."""
    for rule in compiled.rules:
        keys = rule.keys
        if keys is None:
            yield (None, _EXACT), _REST, rule
            continue
        yield (keys.dimension, _BY_POLICY), compiled.policy.key, rule
        for key in keys.exact:
            yield (keys.dimension, _EXACT), key, rule
        for prefix in dict.fromkeys(keys.prefixes):
            yield (keys.dimension, _PREFIX), prefix, rule
