"""Counters in Valkey or Redis, shared by every process that uses the same servers."""

from collections.abc import Awaitable, Collection, Sequence
from dataclasses import dataclass

from app.core.clock import Clock
from app.quota.backends.valkey.away import AwayAnswers
from app.quota.backends.valkey.link import Key
from app.quota.backends.valkey.servers import Outcomes, Servers
from app.quota.backends.valkey.wire import key_of
from app.quota.model import Away, CalendarWindow, CounterKey, FixedWindow, Hit, LimitId, Outcome
from app.telemetry.metrics import Metrics

# Counters that are known to be over their limit: each is refused here until its window ends.
MAX_KNOWN_OVER = 65_536
# Names of counters that are remembered, of those that fit in few bytes.
MAX_KNOWN_KEYS = 8192
MAX_KNOWN_KEY_LENGTH = 256

_LEASE = Away.LEASE

Counter = tuple[LimitId, CounterKey]


@dataclass(frozen=True, slots=True)
class _Over:
    """A window that is used up: until when on the monotonic clock, and the limit that it was counted against."""

    ends: float
    requests: int


class ValkeyCounters:
    """A CounterStore at `servers`. Time is the servers' own, but for the bounds of a calendar's windows."""

    def __init__(
        self, servers: Servers, clock: Clock, metrics: Metrics, *, prefix: str = "meshward", lease_percent: int = 10
    ) -> None:
        """`prefix` begins the name of each counter; `lease_percent` of a limit is leased where its `away` is LEASE."""
        self.answer_seconds = servers.answer_seconds
        self._servers, self._clock, self._prefix = servers, clock, prefix
        self._away = AwayAnswers(clock, metrics, lease_percent)
        self._known_over = metrics.counters_over
        self._over: dict[Counter, _Over] = {}
        self._keys: dict[Counter, Key] = {}

    async def run(self) -> None:
        """Keep the connections to the servers until cancelled; without them every hit is answered by policy."""
        await self._servers.run()

    def add(self, hits: Sequence[Hit]) -> list[Outcome] | Awaitable[list[Outcome]]:
        """Count `hits` in one round trip; see CounterStore.

        What the servers do not count in time is answered by the policy of its limit, so that nothing is raised.
        """
        now = self._clock.monotonic()
        over = [self._find_over(hit, now) for hit in hits] if self._over else []
        sent: Sequence[Hit] = hits
        leases: Sequence[Hit] = ()
        if any(over):
            sent = [hit for hit, known in zip(hits, over, strict=True) if known is None]
        else:
            over = []
        leasing = [hit for hit in sent if hit.away is _LEASE]
        if leasing:
            leases = [lease for hit in leasing if (lease := self._away.lease_for(hit)) is not None]
        counted = self._servers.add((*sent, *leases), [self._key(hit) for hit in (*sent, *leases)]) if sent else None
        if counted is None:
            outcomes = [self._away.answer(hit) for hit in sent]
            return _merge(over, outcomes) if over else outcomes
        return self._settle(sent, leases, over, counted, now)

    def retain(self, limits: Collection[LimitId]) -> None:
        """Forget what is known of every limit that is not one of `limits`; its counters in the store expire."""
        self._away.retain(limits)
        self._over = {counter: over for counter, over in self._over.items() if counter[0] in limits}

    async def _settle(
        self,
        hits: Sequence[Hit],
        leases: Sequence[Hit],
        over: list[Outcome | None],
        counted: Awaitable[Outcomes],
        now: float,
    ) -> list[Outcome]:
        results = await counted
        for lease, result in zip(leases, results[len(hits) :], strict=True):
            if result is not None:
                self._away.note_lease(lease, result, now)
        outcomes = [
            result if result is not None and result.allowed else self._refused(hit, result, now)
            for hit, result in zip(hits, results, strict=False)
        ]
        return _merge(over, outcomes) if over else outcomes

    def _refused(self, hit: Hit, result: Outcome | None, now: float) -> Outcome:
        """Return the outcome of what the store has not allowed."""
        if result is None:
            return self._away.answer(hit)
        result = self._away.spend_lease(hit, result)
        if not result.allowed:
            self._note_over(hit, result, now)
        return result

    def _find_over(self, hit: Hit, now: float) -> Outcome | None:
        over = self._over.get((hit.limit_id, hit.key))
        if over is None or over.ends <= now or over.requests < hit.algorithm.requests:
            return None
        self._known_over.add(())
        return Outcome(False, 0, int(over.ends - now) + 1)

    def _note_over(self, hit: Hit, outcome: Outcome, now: float) -> None:
        """Remember a window whose limit is exceeded: with refused hits counted, nothing fits into it any more."""
        algorithm = hit.algorithm
        if not isinstance(algorithm, (FixedWindow, CalendarWindow)) or not algorithm.counts_refused:
            return
        ends = now + outcome.reset_seconds - 1  # the seconds are rounded up
        if ends <= now:
            return
        if len(self._over) >= MAX_KNOWN_OVER:
            self._over = {counter: over for counter, over in self._over.items() if over.ends > now}
        if len(self._over) < MAX_KNOWN_OVER:
            self._over[hit.limit_id, hit.key] = _Over(ends, algorithm.requests)

    def _key(self, hit: Hit) -> Key:
        counter = hit.limit_id, hit.key
        known = self._keys.get(counter)
        if known is None:
            known = key_of(self._prefix, *counter)
            if sum(map(len, hit.key)) <= MAX_KNOWN_KEY_LENGTH:
                if len(self._keys) >= MAX_KNOWN_KEYS:
                    self._keys.clear()
                self._keys[counter] = known
        return known


def _merge(over: Sequence[Outcome | None], outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the outcomes that are known in `over`, the others from `outcomes` in their order."""
    rest = iter(outcomes)
    return [next(rest) if known is None else known for known in over]
