"""Limits on rates: a token bucket for each key."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

# Buckets kept; the one that has been idle longest is dropped first, which only refills it.
MAX_BUCKETS = 16_384


@dataclass(frozen=True, slots=True)
class RateLimit:
    """What one key may take: `per_second` on average, `burst` at once."""

    per_second: float
    burst: int


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float


class Buckets:
    """The buckets of one kind of key. `monotonic` gives seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._buckets: OrderedDict[Hashable, _Bucket] = OrderedDict()

    def take(self, key: Hashable, limit: RateLimit) -> float:
        """Take a token of `key` and return 0; if there is none, return the seconds until there will be one."""
        now = self._monotonic()
        bucket = self._bucket(key, limit, now)
        bucket.tokens = min(limit.burst, bucket.tokens + (now - bucket.filled_at) * limit.per_second)
        bucket.filled_at = now
        if bucket.tokens < 1:
            return (1 - bucket.tokens) / limit.per_second
        bucket.tokens -= 1
        return 0.0

    def give_back(self, key: Hashable) -> None:
        """Return a token that was taken for nothing."""
        if key in self._buckets:
            self._buckets[key].tokens += 1

    def _bucket(self, key: Hashable, limit: RateLimit, now: float) -> _Bucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= MAX_BUCKETS:
                self._buckets.popitem(last=False)
            bucket = self._buckets[key] = _Bucket(limit.burst, now)
        else:
            self._buckets.move_to_end(key)
        return bucket
