"""Counters in this process's memory: a dictionary for each limit, thrown away whole when its window ends."""

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from app.core.clock import Clock
from app.quota.backends.sketch import ROWS, Sketch, digest_of
from app.quota.model import CounterKey, FixedWindow, Hit, LimitId, Outcome
from app.quota.rules.window import count_hits, steady_offset, window_end

# Clients write what is counted, so they can make any number of counters. Those that find no room share the cells of a
# sketch: nothing is forgotten before the window ends, as that would grant a limit twice, and a flood has to use up the
# limits of as many keys as the sketch is wide before it takes from others.
# Counters of one limit.
MAX_COUNTERS_PER_LIMIT = 100_000
# Counters of all limits, some 200 bytes each.
MAX_COUNTERS = 1_000_000
# Cells of all sketches, 4 bytes each. One takes up to an eighth of those that are free, so that the limits that run out
# of room first leave enough for others.
MAX_CELLS = 8 * 1024 * 1024
SHARE_OF_CELLS = 8
# The most cells in a row of a sketch, and those that each limit gets even when all are used up: the number of limits is
# the operator's.
MAX_WIDTH = 256 * 1024
MIN_WIDTH = 1024
# Characters of a key that is kept as it is; a longer one is kept as its digest, so that hostile values claim no memory.
MAX_PLAIN_LENGTH = 256


@dataclass(slots=True)
class _Room:
    """The counters of one limit, which all end at `ends` (Unix seconds); `shared` counts what found no room."""

    ends: int
    states: dict[CounterKey | bytes, int] = field(default_factory=dict)
    shared: Sketch | None = None


class MemoryCounters:
    """A CounterStore for one process. It belongs to one event loop: a step is atomic as nothing in it waits."""

    def __init__(
        self,
        clock: Clock,
        *,
        max_per_limit: int = MAX_COUNTERS_PER_LIMIT,
        max_counters: int = MAX_COUNTERS,
        max_cells: int = MAX_CELLS,
        secret: bytes | None = None,
    ) -> None:
        """`secret` decides which keys share cells; it is random if there is none."""
        self._clock = clock
        self._offset = float("-inf")
        self._second = 0
        self._next_second = float("-inf")
        self._max_per_limit = max_per_limit
        self._max_counters = max_counters
        self._max_cells = max_cells
        self._secret = secret or secrets.token_bytes(32)
        self._rooms: dict[LimitId, _Room] = {}
        # When the window of each room ends, the next one first.
        self._ends: list[tuple[int, LimitId]] = []
        self._held = 0
        self._cells = 0

    @property
    def held(self) -> int:
        """How many counters are held, those of windows that ended since the last step included."""
        return self._held

    def add(self, hits: Sequence[Hit]) -> list[Outcome]:
        """Count `hits` in one step; see CounterStore."""
        now = self._now()
        while self._ends and self._ends[0][0] <= now:
            self._free(self._rooms.pop(heappop(self._ends)[1]))
        return [self._add(hit, now) for hit in hits]

    def retain(self, limits: Collection[LimitId]) -> None:
        """Free the counters of every limit that is not one of `limits`."""
        for limit_id in self._rooms.keys() - set(limits):
            self._free(self._rooms.pop(limit_id))
        self._ends = [(room.ends, limit_id) for limit_id, room in self._rooms.items()]
        heapify(self._ends)

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
            kept = self._bounded(key)
            counted = room.states.get(kept)
            if counted is None:
                shared = room.shared
                if hits and not self._has_room(room):
                    return self._add_shared(shared or self._share(room), key, window, now, hits)
                counted = shared.count(shared.places(digest_of(key, self._secret))) if shared else 0
                self._held += bool(hits)
        counted, outcome = count_hits(window, counted, now, hits)
        if hits:
            room.states[kept] = counted
        return outcome

    def _add_shared(self, shared: Sketch, key: CounterKey, window: FixedWindow, now: int, hits: int) -> Outcome:
        places = shared.places(digest_of(key, self._secret))
        counted, outcome = count_hits(window, shared.count(places), now, hits)
        shared.raise_to(places, counted)
        return outcome._replace(exact=False)

    def _has_room(self, room: _Room) -> bool:
        return len(room.states) < self._max_per_limit and self._held < self._max_counters

    def _open(self, limit_id: LimitId, ends: int) -> _Room:
        room = self._rooms[limit_id] = _Room(ends)
        heappush(self._ends, (ends, limit_id))
        return room

    def _share(self, room: _Room) -> Sketch:
        """Give `room` its sketch, as wide as the largest power of two within its share of the free cells."""
        share = max(0, self._max_cells - self._cells) // (SHARE_OF_CELLS * ROWS)
        width = 1 << share.bit_length() >> 1
        shared = room.shared = Sketch(min(max(width, MIN_WIDTH), MAX_WIDTH))
        self._cells += shared.cells
        return shared

    def _free(self, room: _Room) -> None:
        self._held -= len(room.states)
        self._cells -= room.shared.cells if room.shared else 0

    def _bounded(self, key: CounterKey) -> CounterKey | bytes:
        """Return `key` as it is kept: itself, or its digest if it is long."""
        return key if sum(map(len, key)) <= MAX_PLAIN_LENGTH else digest_of(key, self._secret)
