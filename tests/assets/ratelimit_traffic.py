"""Configurations in envoyproxy/ratelimit's schema and sequences of requests, made by chance from a seed.

They have what both services answer in the same way: keys without underscores, so that no key and value can be joined to
another pair, wildcards at the end of a value, and windows of a day at least.
"""

import random

from envoy.service.ratelimit.v3 import rls_pb2
from envoy.type.v3 import ratelimit_unit_pb2

_KEYS = ("user", "path", "a.b")
_VALUES = ("x", "xy", "y", "", "x*", "é|:")
_PATTERNS = ("*", "x*", "xy*", "y*")
_NAMES = ("n1", "n2", "n3")
_UNITS = ("day", "week", "month", "year")
_OVERRIDE_UNITS = (ratelimit_unit_pb2.DAY, ratelimit_unit_pb2.MONTH, ratelimit_unit_pb2.YEAR)
_DEPTH = 3


class Traffic:
    """One domain, `document`, and requests for it, most of which are about what is in it.

    A descriptor has up to `most_hits`; without `repeats` those of one request are different ones, and each has a hit.
    """

    def __init__(self, seed: int, most_hits: int = 5, *, repeats: bool = True) -> None:
        self._most_hits, self._repeats = most_hits, repeats
        self._source = random.Random(seed)
        self.domain = f"domain-{seed}"
        self.document: dict[str, object] = {"domain": self.domain}
        # The entries that lead to each descriptor.
        self._ways: list[tuple[tuple[str, str | None], ...]] = []
        self.document["descriptors"] = self._descriptors(())

    def requests(self, number: int) -> list[rls_pb2.RateLimitRequest]:
        return [self._request() for _ in range(number)]

    def _happens(self, chance: float) -> bool:
        return self._source.random() < chance

    def _descriptors(self, way: tuple[tuple[str, str | None], ...]) -> list[dict[str, object]]:
        found = {}
        for _ in range(self._source.randint(1, 4)):
            key, value = self._source.choice(_KEYS), self._source.choice((None, *_VALUES[:3], *_PATTERNS))
            found[key, value] = self._descriptor((*way, (key, value)))
        return list(found.values())

    def _descriptor(self, way: tuple[tuple[str, str | None], ...]) -> dict[str, object]:
        key, value = way[-1]
        fields: dict[str, object] = {"key": key}
        if value is not None:
            fields["value"] = value
        if self._happens(0.75):
            fields["rate_limit"] = self._limit()
        for flag, chance in (
            ("shadow_mode", 0.1),
            ("quota_mode", 0.1),
            ("detailed_metric", 0.2),
            ("value_to_metric", 0.2),
        ):
            if self._happens(chance):
                fields[flag] = self._happens(0.8)
        if value is not None and "*" in value and self._happens(0.4):
            fields["share_threshold"] = True
        self._ways.append(way)
        if len(way) < _DEPTH and self._happens(0.4):
            fields["descriptors"] = self._descriptors(way)
        return fields

    def _limit(self) -> dict[str, object]:
        if self._happens(0.1):
            fields: dict[str, object] = {"unlimited": True}
        else:
            fields = {"unit": self._source.choice(_UNITS), "requests_per_unit": self._source.randint(0, 12)}
        if self._happens(0.5):
            fields["name"] = self._source.choice(_NAMES)
        others = [name for name in _NAMES if name != fields.get("name")]
        if self._happens(0.2):
            fields["replaces"] = [{"name": name} for name in self._source.sample(others, self._source.randint(1, 2))]
        return fields

    def _request(self) -> rls_pb2.RateLimitRequest:
        domain = self.domain if self._happens(0.97) else "unknown"
        request = rls_pb2.RateLimitRequest(domain=domain, hits_addend=self._hits())
        wanted = [self._entries() for _ in range(self._source.choice((1, 1, 2, 2, 3, 5)))]
        for entries in wanted if self._repeats else dict.fromkeys(map(tuple, wanted)):
            descriptor = request.descriptors.add()
            for key, value in entries:
                descriptor.entries.add(key=key, value=value)
            if self._repeats and self._happens(0.15):
                descriptor.hits_addend.value = self._hits()
            if self._happens(0.05):
                descriptor.limit.unit = self._source.choice(_OVERRIDE_UNITS)
                descriptor.limit.requests_per_unit = self._source.randint(0, 8)
        return request

    def _hits(self) -> int:
        return min(self._most_hits, self._source.choice((0, 0, 1, 2, 5)))

    def _entries(self) -> list[tuple[str, str]]:
        way = self._source.choice(self._ways)
        entries = [(key, self._value(value)) for key, value in way]
        if self._happens(0.1):
            entries.append((self._source.choice(_KEYS), self._source.choice(_VALUES)))
        return entries

    def _value(self, value: str | None) -> str:
        if value is None or self._happens(0.1):
            return self._source.choice(_VALUES)
        return value.replace("*", self._source.choice(("", "x", "z"))) if self._happens(0.9) else value
