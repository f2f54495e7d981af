"""Counters in this process's memory: dictionaries for each limit, thrown away whole when their time is over."""

import asyncio
import secrets
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from sys import getsizeof
from typing import Any

from app.core.clock import Clock
from app.quota.backends.generations import Generations
from app.quota.backends.listing import Kept, first_keys, joined, name_of
from app.quota.backends.sketch import ROWS, Sketch, digest_of
from app.quota.model import (
    Algorithm,
    CalendarWindow,
    CounterKey,
    CounterName,
    CounterPage,
    FixedWindow,
    Hit,
    KeptKey,
    LimitId,
    LiveCounter,
    Outcome,
)
from app.quota.rules.counting import MILLISECONDS, count, lifetime
from app.quota.rules.joint import AllOrNone, admit, refuses
from app.quota.rules.names import read_name, write_name
from app.quota.rules.usage import live_counter, usage_probe
from app.quota.rules.window import count_hits, count_until, steady_offset, window_end

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
# The same for the counters that keys of other algorithms share, of some 200 bytes each.
MAX_SLOTS = 128 * 1024
MAX_LIMIT_SLOTS = 16 * 1024
MIN_LIMIT_SLOTS = 64
# Bytes of a key that is kept as a text, as Python keeps it; a larger one is kept as its digest. So a counter takes no
# more than 300 bytes, whatever values are.
MAX_PLAIN_BYTES = 170
# Bytes of the digest that a large key is kept as: among 2^20 of them two are the same with a probability of 2^-89.
_KEY_BYTES = 16
# Counters that are freed in one turn of the event loop, which takes a millisecond.
FREED_AT_ONCE = 5000

Window = FixedWindow | CalendarWindow


@dataclass(slots=True)
class _Room:
    """The counters of one limit, which all end at `ends` (Unix seconds); `shared` counts what found no room."""

    ends: int
    states: dict[Kept, int] = field(default_factory=dict)
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
        self._generations: dict[LimitId, Generations] = {}
        # When the window of each room ends and each generation is over, the next one first.
        self._ends: list[tuple[int, LimitId]] = []
        self._held = 0
        self._cells = 0
        self._slots = 0

    @property
    def answer_seconds(self) -> float:
        """Return 0: every outcome is known at once."""
        return 0.0

    @property
    def held(self) -> int:
        """How many counters are held, those of windows that ended since the last step included."""
        return self._held

    def prepare(self, hits: Sequence[Hit]) -> Sequence[tuple[Hit, Window | None, Kept]]:
        """Return each of `hits` with its window, if its algorithm is one, and what its counter is kept under."""
        prepared: list[tuple[Hit, Window | None, Kept]] = []
        for hit in hits:
            window = hit.algorithm if isinstance(hit.algorithm, (FixedWindow, CalendarWindow)) else None
            prepared.append((hit, window, self._bounded(hit.key)))
        return prepared

    def add(self, hits: Sequence[Hit]) -> list[Outcome]:
        """Count `hits` in one step; see CounterStore."""
        return self.count(self.prepare(hits))

    def count(self, hits: Sequence[tuple[Hit, Window | None, Kept]], joint: AllOrNone | None = None) -> list[Outcome]:
        """Count `hits` in one step; see CounterStore."""
        if joint is not None:
            probes = self._count([(hit._replace(hits=0), window, kept) for hit, window, kept in hits])
            admitted = admit([hit for hit, _, _ in hits], probes)
            if not joint.counts or refuses(joint, admitted):
                return [self._refused(*each) for each in zip(hits, probes, admitted, strict=True)]
        return self._count(hits)

    def _refused(self, prepared: tuple[Hit, Window | None, Kept], probe: Outcome, admitted: Outcome) -> Outcome:
        """Return `admitted`; where it is refused, with the time until it would be allowed."""
        hit, window, _ = prepared
        if admitted.allowed or window is not None or hit.hits <= probe.remaining:
            return admitted
        return self._step(hit)  # only windows count what they refuse

    def _count(self, hits: Sequence[tuple[Hit, Window | None, Kept]]) -> list[Outcome]:
        now = self._free_ended()
        rooms = self._rooms
        outcomes = []
        for hit, window, kept in hits:
            if window is None:
                outcomes.append(self._step(hit))
                continue
            room = rooms.get(hit.limit_id) or self._open(hit.limit_id, window_end(window, now))
            counted = room.states.get(kept)
            if counted is None:
                outcomes.append(self._begin(room, hit, window, kept, now))
                continue
            room.states[kept], outcome = count_until(window, counted, room.ends - now, hit.hits)
            outcomes.append(outcome)
        return outcomes

    async def retain(self, limits: AbstractSet[LimitId]) -> None:
        """Free the counters of every limit that is not one of `limits`, some in each turn of the event loop."""
        gone = [each for each in (*self._rooms, *self._generations) if each not in limits]
        await _free_states(self._free_limits(gone))

    async def read(
        self, names: Sequence[CounterName], limits: Mapping[LimitId, Algorithm]
    ) -> Sequence[LiveCounter | None]:
        """Return the counters with `names`; see CounterStore."""
        self._free_ended()
        return [self._read(name, limits[name[0]]) for name in names]

    async def page(self, limits: Mapping[LimitId, Algorithm], cursor: str | None, count: int) -> CounterPage:
        """Return the next `count` counters of `limits`, in the order of their names; see CounterStore.

        Those that found no room of their own are not among them.
        """
        after = None if cursor is None else read_name(cursor)
        names: list[CounterName] = []
        for limit_id in sorted(limits.keys() & (self._rooms.keys() | self._generations.keys())):
            if after is None or limit_id >= after[0]:
                past = self._kept(after[1]) if after is not None and after[0] == limit_id else None
                keys = await first_keys(self._keys(limit_id), past, count - len(names))
                names += [(limit_id, name_of(key)) for key in keys]
            if len(names) == count:
                break
        found = await self.read(names, limits)
        following = write_name(names[-1]) if len(names) == count else None
        return CounterPage(tuple(counter for counter in found if counter is not None), following)

    async def reset(self, names: Collection[CounterName]) -> None:
        """Drop the counters with `names`; see CounterStore.

        Of a key without room the count stays: it is that of others, too.
        """
        for limit_id, key in names:
            kept = self._kept(key)
            if (room := self._rooms.get(limit_id)) is not None:
                self._held -= room.states.pop(kept, None) is not None
            if (generations := self._generations.get(limit_id)) is not None:
                self._held -= generations.drop(kept)

    async def reset_limits(self, limits: Collection[LimitId]) -> int:
        """Free the counters of `limits`, with what keys without room share; see CounterStore."""
        self._free_ended()
        held = self._held
        freed = self._free_limits(limits)
        number = held - self._held
        await _free_states(freed)
        return number

    async def run(self) -> None:
        """Wait until cancelled: there is nothing to keep."""
        await asyncio.Event().wait()

    def _free_ended(self) -> int:
        """Free the counters that have ended, and return the steady time in Unix seconds."""
        now = self._now()
        while self._ends and self._ends[0][0] <= now:
            self._end(heappop(self._ends)[1], now)
        return now

    def _free_limits(self, limits: Collection[LimitId]) -> list[dict[Any, Any]]:
        """Let the counters of `limits` go, and return what they were kept in."""
        freed: list[dict[Any, Any]] = []
        for limit_id in limits:
            if (room := self._rooms.pop(limit_id, None)) is not None:
                self._free(room)
                freed.append(room.states)
            if (generations := self._generations.pop(limit_id, None)) is not None:
                self._held -= generations.held
                self._slots -= generations.slots
                freed += generations.let_go()
        if freed:
            self._ends = [(room.ends, limit_id) for limit_id, room in self._rooms.items()]
            ends = ((each.ends, limit_id) for limit_id, each in self._generations.items())
            self._ends += [(each, limit_id) for each, limit_id in ends if each is not None]
            heapify(self._ends)
        return freed

    def _keys(self, limit_id: LimitId) -> list[Kept]:
        room, generations = self._rooms.get(limit_id), self._generations.get(limit_id)
        return list(room.states) if room else generations.keys() if generations else []

    def _read(self, name: CounterName, algorithm: Algorithm) -> LiveCounter | None:
        limit_id, key = name
        kept = self._kept(key)
        probe = usage_probe(algorithm)
        if isinstance(probe, (FixedWindow, CalendarWindow)):
            room = self._rooms.get(limit_id)
            _, outcome = count_hits(probe, room.states.get(kept, 0) if room else 0, self._second, 0)
        else:
            generations = self._generations.get(limit_id)
            outcome = count(probe, generations.state(kept) if generations else None, self._milliseconds(), 0).outcome()
        return live_counter(name, algorithm, outcome)

    def _end(self, limit_id: LimitId, now: int) -> None:
        room = self._rooms.pop(limit_id, None)
        if room is not None:
            self._free(room)
            return
        generations = self._generations[limit_id]
        self._held -= generations.turn(now)
        if generations.held and generations.ends is not None:
            heappush(self._ends, (generations.ends, limit_id))
        else:
            self._slots -= self._generations.pop(limit_id).slots

    def _step(self, hit: Hit) -> Outcome:
        """Count a hit of an algorithm whose counters end one by one."""
        generations = self._generations.get(hit.limit_id)
        if generations is None:
            generations = self._generations[hit.limit_id] = Generations(lifetime(hit.algorithm), self._second)
            if generations.ends is not None:
                heappush(self._ends, (generations.ends, hit.limit_id))
        has_room = generations.held < self._max_per_limit and self._held < self._max_counters
        if not has_room and not generations.slots:
            generations.slots = _share(MAX_SLOTS - self._slots, MIN_LIMIT_SLOTS, MAX_LIMIT_SLOTS)
            self._slots += generations.slots
        slot = int.from_bytes(digest_of(hit.key, self._secret)) % generations.slots if generations.slots else None
        held = generations.held
        step, exact = generations.count(hit, self._bounded(hit.key), self._milliseconds(), slot=slot, has_room=has_room)
        self._held += generations.held - held
        return step.outcome()._replace(exact=exact)

    def _milliseconds(self) -> int:
        """Return the steady time in Unix milliseconds, after `_now` has reckoned it."""
        return int((self._clock.monotonic() + self._offset) * MILLISECONDS)

    def _now(self) -> int:
        """Return the steady time in Unix seconds. The wall clock is read once in each second."""
        monotonic = self._clock.monotonic()
        if monotonic >= self._next_second:
            self._offset = steady_offset(self._offset, self._clock.now().timestamp(), monotonic)
            self._second = int(monotonic + self._offset)
            self._next_second = self._second + 1 - self._offset
        return self._second

    def _begin(self, room: _Room, hit: Hit, window: Window, kept: Kept, now: int) -> Outcome:
        """Count a hit whose key has no counter of its own yet."""
        has_room = len(room.states) < self._max_per_limit and self._held < self._max_counters
        shared = room.shared
        if shared is None and hit.hits and not has_room:
            shared = self._share(room)
        places = shared.places(digest_of(hit.key, self._secret)) if shared else ()
        counted, outcome = count_hits(window, shared.count(places) if shared else 0, now, hit.hits)
        if hit.hits and has_room:
            room.states[kept] = counted
            self._held += 1
        elif hit.hits and shared is not None:
            shared.raise_to(places, counted)
            return outcome._replace(exact=False)
        return outcome

    def _open(self, limit_id: LimitId, ends: int) -> _Room:
        room = self._rooms[limit_id] = _Room(ends)
        heappush(self._ends, (ends, limit_id))
        return room

    def _share(self, room: _Room) -> Sketch:
        """Give `room` its sketch, as wide as its share of the free cells."""
        shared = room.shared = Sketch(_share((self._max_cells - self._cells) // ROWS, MIN_WIDTH, MAX_WIDTH))
        self._cells += shared.cells
        return shared

    def _free(self, room: _Room) -> None:
        self._held -= len(room.states)
        self._cells -= room.shared.cells if room.shared else 0

    def _kept(self, key: KeptKey) -> Kept:
        return key if isinstance(key, bytes) else self._bounded(key)

    def _bounded(self, key: CounterKey) -> Kept:
        """Return `key` as it is kept: as one text, which takes less than its parts, or as its digest if it is large."""
        text = joined(key)
        return text if getsizeof(text) <= MAX_PLAIN_BYTES else digest_of(key, self._secret)[:_KEY_BYTES]


async def _free_states(freed: list[dict[Any, Any]]) -> None:
    """Free what counters were kept in, some in each turn of the event loop."""
    left = FREED_AT_ONCE
    while freed:
        states = freed[-1]
        for _ in range(min(left, len(states))):
            states.popitem()
            left -= 1
        if states:
            left = FREED_AT_ONCE
            await asyncio.sleep(0)
        else:
            freed.pop()


def _share(free: int, least: int, most: int) -> int:
    """Return the largest power of two within a limit's share of what is free, within its bounds."""
    share = max(0, free) // SHARE_OF_CELLS
    return min(max(1 << share.bit_length() >> 1, least), most)
