"""The candidates: the few rules that can match a request, found by its path, identity and host.

A table has the rules of every role, so that a request is looked up once, whatever its workload's policies do.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from app.authz.model import Action, Attribute, AuthorizationPolicy, CheckInput
from app.authz.rules.compile import CompiledPolicy, CompiledRule
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

_EMPTY: Bucket = ((),) * len(ROLES)
_REST = ""
"""The one key of the rules that have none."""


def role_of(policy: AuthorizationPolicy) -> int:
    """Return what the rules of the policy are for."""
    return _ACTIONS[policy.action] if policy.watch is None else WATCHES[policy.watch]


class RuleTable:
    """Rules by the path, identity or host of the requests that they can match."""

    def __init__(self, tables: Mapping[str, Table] | None = None) -> None:
        self._tables = tables or {}
        find = self._tables.get
        self._rest = find("rest", {}).get(_REST)
        self._paths, self._path_prefixes, self._by_path = find("path", {}), find("prefix", {}), find("by_path", {})
        self._path_lengths = _lengths(self._path_prefixes)
        self._hosts, self._host_prefixes, self._by_host = find("host", {}), find("host_prefix", {}), find("by_host", {})
        self._host_lengths = _lengths(self._host_prefixes)
        self._principals, self._namespaces = find("principal", {}), find("namespace", {})
        self._by_identity = find("by_identity", {})
        self.is_empty = not any(self._tables.values())

    def changed(self, removed: Iterable[CompiledPolicy], added: Iterable[CompiledPolicy]) -> "RuleTable":
        """Return the table without the rules of `removed` and with those of `added`."""
        gone: set[tuple[str, str]] = set()
        touched: dict[str, dict[str, list[tuple[int, Placed]]]] = {}
        for compiled in removed:
            gone.add((compiled.policy.namespace, compiled.policy.name))
            for table, key, _ in _entries(compiled):
                touched.setdefault(table, {}).setdefault(key, [])
        for compiled in added:
            role = role_of(compiled.policy)
            for table, key, placed in _entries(compiled):
                touched.setdefault(table, {}).setdefault(key, []).append((role, placed))
        if not touched:
            return self
        return RuleTable({**self._tables, **{name: self._with(name, keys, gone) for name, keys in touched.items()}})

    def _with(self, name: str, touched: Mapping[str, list[tuple[int, Placed]]], gone: set[tuple[str, str]]) -> Table:
        table = dict(self._tables.get(name, {}))
        for key, new in touched.items():
            bucket = _changed(table.get(key, _EMPTY), new, gone)
            if any(bucket):
                table[key] = bucket
            else:
                del table[key]
        return table

    def find(self, request: CheckInput, found: list[Bucket]) -> None:
        """Add the buckets with the rules that can match to `found`."""
        if self._by_path:
            self._find_by_path(request.path if request.reading is None else request.reading, found)
        if self._by_identity:
            self._find_by_identity(request, found)
        if self._by_host:
            self._find_by_host(request.host, found)
        if self._rest is not None:
            found.append(self._rest)

    def _find_by_path(self, path: str | None, found: list[Bucket]) -> None:
        if path is None:
            found.extend(self._by_path.values())
            return
        if path in self._paths:
            found.append(self._paths[path])
        # A path is cut once a length, not compared once a prefix.
        prefixes = self._path_prefixes
        for length in self._path_lengths:
            cut = path[:length]
            if cut in prefixes:
                found.append(prefixes[cut])

    def _find_by_identity(self, request: CheckInput, found: list[Bucket]) -> None:
        source = request.source
        if source is None:
            found.extend(self._by_identity.values())
            return
        for names, buckets in ((source.principals, self._principals), (source.namespaces, self._namespaces)):
            for name in names:
                bucket = buckets.get(name)
                if bucket is not None:
                    found.append(bucket)

    def _find_by_host(self, host: str | None, found: list[Bucket]) -> None:
        if host is None:
            found.extend(self._by_host.values())
            return
        hosts, prefixes = self._hosts, self._host_prefixes
        for name in dict.fromkeys(authority_readings(host)):
            if name in hosts:
                found.append(hosts[name])
            for length in self._host_lengths:
                cut = name[:length]
                if cut in prefixes:
                    found.append(prefixes[cut])


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


def _lengths(prefixes: Iterable[str]) -> tuple[int, ...]:
    return tuple(sorted(set(map(len, prefixes))))


def _changed(bucket: Bucket, new: list[tuple[int, Placed]], gone: set[tuple[str, str]]) -> Bucket:
    """Return the bucket without the rules of the policies `gone` and with the new ones of each role."""
    rules = [[placed for placed in of_role if placed[0][:2] not in gone] for of_role in bucket]
    for role, placed in new:
        rules[role].append(placed)
    return tuple(tuple(sorted(of_role, key=_place)) for of_role in rules)


def _entries(compiled: CompiledPolicy) -> Iterator[tuple[str, str, Placed]]:
    """Yield the name of a table and a key in it, wherever a rule of the policy is found.

    Where the attribute is missing all rules that are found by it are looked at: those are kept by policy.
    """
    namespace, name = compiled.policy.namespace, compiled.policy.name
    for number, rule in enumerate(compiled.rules):
        placed = (namespace, name, number), rule
        keys = rule.keys
        if keys is None:
            yield "rest", _REST, placed
            continue
        group, table, prefixes = _TABLES[keys.dimension]
        yield group, compiled.policy.key, placed
        for key in keys.exact:
            yield table, key, placed
        for prefix in dict.fromkeys(keys.prefixes):
            yield prefixes, prefix, placed


_TABLES = {
    Attribute.PATH: ("by_path", "path", "prefix"),
    Attribute.HOST: ("by_host", "host", "host_prefix"),
    Attribute.SOURCE_PRINCIPAL: ("by_identity", "principal", ""),
    Attribute.SOURCE_NAMESPACE: ("by_identity", "namespace", ""),
}
"""By attribute, the tables: of the rules by policy, by what it is, and by what it begins with."""
