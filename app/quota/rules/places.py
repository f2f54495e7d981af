"""The limits of a domain by the identity that their counters have."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from app.quota.model import Algorithm, Entry, FixedWindow, KeptKey, LimitId, LiveCounter, RateLimit, TokenBucket
from app.quota.rules.limitador import CompiledLimit, Namespace
from app.quota.rules.tree import CompiledConfig, Node


@dataclass(frozen=True, slots=True)
class LimitPlace:
    """A limit that counters belong to: what it is called, and the keys of the values that it counts by.

    `limit` and `keys` are None for limits that requests bring with them: their counters have the keys among the values.
    `source` is the limit in limitador's schema, if it is one.
    """

    rule: str
    algorithm: Algorithm
    limit: RateLimit | None = None
    keys: tuple[str, ...] | None = None
    source: CompiledLimit | None = None

    def entries_of(self, key: KeptKey) -> tuple[Entry, ...] | None:
        """Return keys and values that the counter with `key` is of, None if the store has no more than a digest."""
        if isinstance(key, bytes):
            return None
        if self.keys is None:
            return tuple(zip(key[::2], key[1::2], strict=False))
        return tuple(zip(self.keys, key, strict=False))

    def remaining_of(self, counter: LiveCounter) -> int | None:
        """Return what is left of the limit, None if it is not known."""
        if self.limit is None:
            return None
        most = self.algorithm.burst if isinstance(self.algorithm, TokenBucket) else self.algorithm.requests
        return max(0, most - counter.used)


Places = Mapping[LimitId, LimitPlace]


def places_of(config: CompiledConfig | None, namespace: Namespace | None) -> dict[LimitId, LimitPlace]:
    """Return every limit of a domain that counters can be of."""
    found: dict[LimitId, LimitPlace] = {}
    if config is not None:
        for unit, limit_id in config.overrides.items():
            if unit is not None:
                rule = f"{config.domain} (brought by requests, per {unit.name.lower()})"
                found[limit_id] = LimitPlace(rule, FixedWindow(0, unit.seconds))
        found |= _below(config.root, ())
    for each in namespace.all() if namespace else ():
        applied, limit = each.applied, each.counted.limit
        found[applied.limit_id] = LimitPlace(applied.rule, each.algorithm, limit, each.limit.variables, each)
    return found


def _below(node: Node, keys: tuple[str, ...]) -> Iterator[tuple[LimitId, LimitPlace]]:
    applied = node.limit
    if applied is not None and applied.algorithm is not None and isinstance(applied.limit, RateLimit):
        yield applied.limit_id, LimitPlace(applied.rule, applied.algorithm, applied.limit, keys)
    for (key, _), child in node.exact.items():
        yield from _below(child, (*keys, key))
    for key, child in node.bare.items():
        yield from _below(child, (*keys, key))
