"""The candidates: the few rules that can match a request, found by its path, identity and host.

A table has the rules of every role, so that a request is looked up once, whatever its workload's policies do.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

from app.authz.model import Action, Attribute, AuthorizationPolicy, CheckInput
from app.authz.rules.compile import DIMENSIONS, CompiledPolicy, CompiledRule
from app.authz.rules.hosts import authority_readings
from app.core.decision import Watch

CUSTOM, DENY, ALLOW, AUDIT, DRY_RUN_DENY, DRY_RUN_ALLOW = ROLES = range(6)
"""What the rules of a policy are for, as the place of their list in a bucket."""
WATCHES = {Watch.AUDIT: AUDIT, Watch.DRY_RUN_DENY: DRY_RUN_DENY, Watch.DRY_RUN_ALLOW: DRY_RUN_ALLOW}
"""The roles of policies that decide nothing."""
_ACTIONS = {Action.CUSTOM: CUSTOM, Action.DENY: DENY, Action.ALLOW: ALLOW}

Place = tuple[str, str, int]
"""Where a rule stands among those that are reported: namespace and name of its policy, its number there."""
Placed = tuple[Place, CompiledRule]
Bucket = tuple[tuple[Placed, ...], ...]
"""The rules that are found by one key: those of each role, in the order of their places."""
Table = Mapping[str, Bucket]
TableName = tuple[Attribute | None, str]
"""What the rules in a table are found by, None for those that any request can match, and how."""

_EXACT, _PREFIX, _BY_POLICY = "exact", "prefix", "by policy"
_REST = ""
"""The one key of the rules that any request can match."""
_EMPTY: Bucket = ((),) * len(ROLES)


def role_of(policy: AuthorizationPolicy) -> int:
    """Return what the rules of the policy are for."""
    return _ACTIONS[policy.action] if policy.watch is None else WATCHES[policy.watch]


@dataclass(frozen=True, slots=True)
class Lookup:
    """Rules by one attribute of a request, the one at `dimension` in DIMENSIONS.

    They are found by what it is and by what it begins with, which has one of the `lengths`. Where it is missing, all of
    them are looked at: those are kept by policy.
    """

    dimension: int
    exact: Table
    prefixes: Table
    by_policy: Table
    lengths: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", tuple(sorted(set(map(len, self.prefixes)))))


class RuleTable:
    """Rules by the attributes of the requests that they can match; `rest` are those that any request can match."""

    def __init__(self, tables: Mapping[TableName, Table] | None = None) -> None:
        self._tables = tables or {}
        self.rest = self._find(None, _EXACT).get(_REST, _EMPTY)
        self.lookups = tuple(
            Lookup(place, self._find(dimension, _EXACT), self._find(dimension, _PREFIX), by_policy)
            for place, dimension in enumerate(DIMENSIONS)
            if (by_policy := self._find(dimension, _BY_POLICY))
        )

    def _find(self, dimension: Attribute | None, kind: str) -> Table:
        return self._tables.get((dimension, kind), {})

    def changed(self, removed: Iterable[CompiledPolicy], added: Iterable[CompiledPolicy]) -> "RuleTable":
        """Return the table without the rules of `removed` and with those of `added`."""
        gone: set[tuple[str, str]] = set()
        touched: dict[TableName, dict[str, list[tuple[int, Placed]]]] = {}
        for compiled in removed:
            gone.add((compiled.policy.namespace, compiled.policy.name))
            for table, key, _ in _entries(compiled):
                touched.setdefault(table, {}).setdefault(key, [])
        for compiled in added:
            role = role_of(compiled.policy)
            for table, key, placed in _entries(compiled):
                touched.setdefault(table, {}).setdefault(key, []).append((role, placed))
        return RuleTable({**self._tables, **{name: self._with(name, keys, gone) for name, keys in touched.items()}})

    def _with(
        self, name: TableName, touched: Mapping[str, list[tuple[int, Placed]]], gone: set[tuple[str, str]]
    ) -> Table:
        table = dict(self._tables.get(name, {}))
        for key, new in touched.items():
            bucket = _changed(table.get(key, _EMPTY), new, gone)
            if any(bucket):
                table[key] = bucket
            else:
                del table[key]
        return table


class Candidates:
    """Finds the rules that can match a request in several tables."""

    def __init__(self, tables: Iterable[RuleTable]) -> None:
        self.tables = tuple(tables)
        self._rest = [table.rest for table in self.tables if any(table.rest)]
        self._lookups = tuple(lookup for table in self.tables for lookup in table.lookups)

    def of(self, request: CheckInput) -> list[Bucket]:
        """Return the buckets that can have a rule that matches."""
        found = self._rest.copy()
        if not self._lookups:
            return found
        path = request.path if request.reading is None else request.reading
        source, host = request.source, request.host
        # In the order of DIMENSIONS, None where it is missing.
        names = (
            None if path is None else (path,),
            None if source is None else source.principals,
            None if host is None else authority_readings(host),
            None if source is None else source.namespaces,
        )
        for lookup in self._lookups:
            texts = names[lookup.dimension]
            if texts is None:
                found.extend(lookup.by_policy.values())
                continue
            exact, prefixes = lookup.exact, lookup.prefixes
            for text in texts:
                if text in exact:
                    found.append(exact[text])
                # A text is cut once a length, not compared once a prefix.
                size = len(text)
                for length in lookup.lengths:
                    if length > size:
                        break
                    cut = text[:length]
                    if cut in prefixes:
                        found.append(prefixes[cut])
        return found


def first(candidates: Iterable[Bucket], role: int, request: CheckInput) -> CompiledRule | None:
    """Return the first rule of a role that matches, None if none does."""
    # Each list is in order, so that its first match is enough, and none behind the best one so far. To bring the lists
    # into one order would cost more than all their evaluations.
    best: Place | None = None
    found: CompiledRule | None = None
    for bucket in candidates:
        for place, rule in bucket[role]:
            if best is not None and place >= best:
                break
            if rule.holds(request):
                best, found = place, rule
                break
    return found


def all_of_role(candidates: Iterable[Bucket], role: int, request: CheckInput) -> Iterator[CompiledRule]:
    """Yield the rules of a role that match, in order."""
    placed = sorted(chain.from_iterable(bucket[role] for bucket in candidates), key=_place)
    return (rule for _, rule in placed if rule.holds(request))


def _place(entry: Placed) -> Place:
    return entry[0]


def _changed(bucket: Bucket, new: list[tuple[int, Placed]], gone: set[tuple[str, str]]) -> Bucket:
    """Return the bucket without the rules of the policies `gone` and with the new ones of each role."""
    rules = [[placed for placed in of_role if placed[0][:2] not in gone] for of_role in bucket]
    for role, placed in new:
        rules[role].append(placed)
    return tuple(tuple(sorted(of_role, key=_place)) for of_role in rules)


def _entries(compiled: CompiledPolicy) -> Iterator[tuple[TableName, str, Placed]]:
    """Yield the name of a table and a key in it, wherever a rule of the policy is found."""
    namespace, name = compiled.policy.namespace, compiled.policy.name
    for number, rule in enumerate(compiled.rules):
        placed = (namespace, name, number), rule
        keys = rule.keys
        if keys is None:
            yield (None, _EXACT), _REST, placed
            continue
        yield (keys.dimension, _BY_POLICY), compiled.policy.key, placed
        for key in keys.exact:
            yield (keys.dimension, _EXACT), key, placed
        for prefix in dict.fromkeys(keys.prefixes):
            yield (keys.dimension, _PREFIX), prefix, placed
