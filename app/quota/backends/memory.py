"""Counters in this process's memory: a dictionary for each limit, thrown away whole when its window ends."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from heapq import heapify, heappop, heappush

from app.core.clock import Clock
from app.quota.model import CounterKey, Hit, LimitId, Outcome
from app.quota.rules.window import count_hits, refuse_uncounted, steady_offset, window_end

# Clients write what is counted, so they can make any number of counters. What finds no room is not counted, and so not
# granted, until the window ends: forgetting a count would grant its limit twice.
# Counters of one limit: what a flood can take before it is refused.
MAX_COUNTERS_PER_LIMIT = 100_000
# Counters of all limits, some hundred bytes each.
MAX_COUNTERS = 1_000_000
# Counters that each limit has room for even while others fill the store: no flood takes the room of every limit. The
# number of limits is the operator's.
RESERVED_COUNTERS = 100
# Characters of a key that is kept as it is; a longer one is kept as its digest, so that hostile values claim no memory.
MAX_PLAIN_LENGTH = 256


@dataclass(slots=True)
class _Room:
    """The counters of one limit, which all end at `ends` (Unix seconds)."""

    ends: int
    states: dict[CounterKey | bytes, int] = field(default_factory=dict)


class MemoryCounters:
    """A CounterStore for one process. It belongs to one event loop: a step is atomic as nothing in it waits."""

    def __init__(
        self,
        clock: Clock,
        *,
        max_per_limit: int = MAX_COUNTERS_PER_LIMIT,
        max_counters: int = MAX_COUNTERS,
        reserved: int = RESERVED_COUNTERS,
    ) -> None:
        self._clock = clock
        self._offset = float("-inf")
        self._second = 0
        self._next_second = float("-inf")
        self._max_per_limit = max_per_limit
        self._max_counters = max_counters
        self._reserved = reserved
        self._rooms: dict[LimitId, _Room] = {}
        # When the window of each room ends, the next one first.
        self._ends: list[tuple[int, LimitId]] = []
        self._held = 0

    @property
    def held(self) -> int:
        """How many counters are held, those of windows that ended since the last step included."""
        return self._held

    def add(self, hits: Sequence[Hit]) -> list[Outcome]:
        """Count `hits` in one step; see CounterStore."""
        now = self._now()
        while self._ends and self._ends[0][0] <= now:
            self._held -= len(self._rooms.pop(heappop(self._ends)[1]).states)
        return [self._add(hit, now) for hit in hits]

    def retain(self, limits: Collection[LimitId]) -> None:
        """Free the counters of every limit that is not one of `limits`."""
        self._rooms = {limit_id: room for limit_id, room in self._rooms.items() if limit_id in limits}
        self._ends = [(room.ends, limit_id) for limit_id, room in self._rooms.items()]
        heapify(self._ends)
        self._held = sum(len(room.states) for room in self._rooms.values())

    def _now(self) -> int:
        """Return the steady time in Unix seconds. The wall clock is read once in each second."""
        monotonic = self._clock.monotonic()
        if monotonic >= self._next_second:
            self._offset = steady_offset(self._offset, self._clock.now().timestamp(), monotonic)
            self._second = int(monotonic + self._offset)
            self._next_second = self._second + 1 - self._offset
        return self._second

    def _add(self, hit: Hit, now: int) -> Outcome:
        limit_id, key, window, hits = hit
        room = self._rooms.get(limit_id) or self._open(limit_id, window_end(window, now))
        counted = room.states.get(key)
        kept: CounterKey | bytes = key
        if counted is None:
            kept = _bounded(key)
            counted = room.states.get(kept)
            if counted is None and hits:
                if not self._has_room(len(room.states)):
                    return refuse_uncounted(window, now)
                self._held += 1
        counted, outcome = count_hits(window, counted or 0, now, hits)
        if hits:
            room.states[kept] = counted
        return outcome

    def _has_room(self, held: int) -> bool:
        """Return whether a limit that holds `held` counters may hold another one."""
        return held < self._max_per_limit and (held < self._reserved or self._held < self._max_counters)

    def _open(self, limit_id: LimitId, ends: int) -> _Room:
        room = self._rooms[limit_id] = _Room(ends)
        heappush(self._ends, (ends, limit_id))
        return room


def _bounded(key: CounterKey) -> CounterKey | bytes:
    """Return `key` as it is kept: itself, or its digest if it is long."""
    if sum(map(len, key)) <= MAX_PLAIN_LENGTH:
        return key
    digest = blake2b(digest_size=32)
    for part in key:
        encoded = part.encode(errors="surrogatepass")
        digest.update(len(encoded).to_bytes(8))
        digest.update(encoded)
    return digest.digest()
