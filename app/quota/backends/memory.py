"""Counters in this process's memory: one dictionary for each length of window, thrown away whole when it ends."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from app.quota.model import CounterKey, Hit, Unit

# Keys that are counted in one window. What comes beyond them is not counted, and so not granted, until the window ends:
# forgetting a count would hand out its quota twice. Each length of window has its own room, so that a flood of keys
# under a yearly limit leaves those by the second alone.
MAX_KEYS = 100_000
# Characters of a key that is kept as it is; a longer one is kept as its digest, so that hostile values claim no memory.
MAX_PLAIN_KEY_LENGTH = 256


@dataclass(slots=True)
class _Window:
    """The counts of the current window of one length."""

    start: int
    counts: dict[CounterKey, int] = field(default_factory=dict)


class MemoryCounters:
    """A CounterStore for one process. It belongs to one event loop: a step is atomic as nothing in it awaits."""

    def __init__(self, max_keys: int = MAX_KEYS) -> None:
        self._max_keys = max_keys
        self._windows = {unit.value: _Window(0) for unit in Unit}

    async def add(self, hits: Sequence[Hit]) -> list[int | None]:
        """Count `hits` in one step; see CounterStore."""
        return [self._add(hit) for hit in hits]

    def keys(self) -> int:
        """Return how many keys are held, those of windows that nobody has found ended yet included."""
        return sum(len(window.counts) for window in self._windows.values())

    def _add(self, hit: Hit) -> int | None:
        window = self._windows[hit.unit_seconds]
        if hit.window_start > window.start:
            window = self._turn(hit)
        counts, key = window.counts, _bounded(hit.key)
        count = counts.get(key)
        if count is None:
            if not hit.hits:
                return 0
            if len(counts) >= self._max_keys:
                return None
            count = 0
        elif not hit.hits:
            return count
        counts[key] = count = count + hit.hits
        return count

    def _turn(self, hit: Hit) -> _Window:
        """Start the window of `hit`, and drop each other one that its start shows to have ended."""
        for unit_seconds, window in self._windows.items():
            if window.counts and window.start + unit_seconds <= hit.window_start:
                self._windows[unit_seconds] = _Window(window.start)
        window = self._windows[hit.unit_seconds] = _Window(hit.window_start)
        return window


def _bounded(key: CounterKey) -> CounterKey:
    if sum(map(len, key)) <= MAX_PLAIN_KEY_LENGTH:
        return key
    digest = blake2b(digest_size=32)
    for part in key:
        encoded = part.encode(errors="surrogatepass")
        digest.update(len(encoded).to_bytes(8))
        digest.update(encoded)
    return (digest.hexdigest(), "")  # no key that is kept as it is has two parts: it has one, and two for each entry
