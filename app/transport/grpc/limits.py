"""How often a caller may start a call, a token bucket for each caller and row of the table; how many may be open."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from app.core.errors import ResourceExhaustedError
from app.transport.grpc.routes import RateLimit

# Callers remembered at once; the one that was idle longest is forgotten first, which only gives its tokens back.
MAX_BUCKETS = 16_384
# Streams of one service that anybody may open, all callers together: each holds 40 KB for as long as it is open.
MAX_PUBLIC_STREAMS = 1024


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float


class RateLimiter:
    """Counts calls by key. `monotonic` gives seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._buckets: OrderedDict[tuple[str, str], _Bucket] = OrderedDict()

    def admit(self, method: str, caller: str, limit: RateLimit) -> None:
        """Take a token of `caller` for `method`. Raises ResourceExhaustedError, saying when to come back."""
        now = self._monotonic()
        bucket = self._bucket((method, caller), limit, now)
        bucket.tokens = min(limit.burst, bucket.tokens + (now - bucket.filled_at) * limit.per_second)
        bucket.filled_at = now
        if bucket.tokens < 1:
            wait = (1 - bucket.tokens) / limit.per_second
            raise ResourceExhaustedError(f"{method} is limited to {limit.per_second:g} a second: retry in {wait:.3f} s")
        bucket.tokens -= 1

    def _bucket(self, key: tuple[str, str], limit: RateLimit, now: float) -> _Bucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= MAX_BUCKETS:
                self._buckets.popitem(last=False)
            bucket = self._buckets[key] = _Bucket(limit.burst, now)
        else:
            self._buckets.move_to_end(key)
        return bucket


class OpenStreams:
    """Counts the open streams of a service that strangers may call."""

    def __init__(self, most: int = MAX_PUBLIC_STREAMS) -> None:
        self._most = most
        self._open = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count a stream for the length of the block. Raises ResourceExhaustedError if there are too many."""
        if self._open >= self._most:
            raise ResourceExhaustedError(f"{self._most} streams of this service are open: close one, or come back")
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
