"""Answers to hits that the store does not count: by the policy of each limit, and from what was leased beforehand."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from app.core.clock import Clock
from app.quota.backends.memory import MemoryCounters
from app.quota.model import Away, CalendarWindow, CounterKey, FixedWindow, Hit, LimitId, Outcome, TokenBucket
from app.telemetry.metrics import Metrics

# Counters that this process may hold a lease of; what comes beyond them is leased once others have ended.
MAX_LEASES = 65_536
# Nothing is known of when a hit that was not counted would be allowed.
RETRY_SECONDS = 1

Counter = tuple[LimitId, CounterKey]


@dataclass(frozen=True, slots=True)
class _Lease:
    """Until when, on the monotonic clock, a share is leased, or is not asked for again if it was not granted."""

    ends: float
    granted: bool


class AwayAnswers:
    """Answers what the store does not count.

    A limit with `Away.LEASE` grants this process `lease_percent` of itself in each window, counted here. With the first
    hit of a window as much is counted in the store, so that what is granted here has been taken from the limit before.
    For a counter without a hit in the window before the store went away it has not: by so much at most can each process
    that is cut off exceed the limit.
    """

    def __init__(self, clock: Clock, metrics: Metrics, lease_percent: int) -> None:
        self._clock, self._answers, self._percent = clock, metrics.counters_bypassed, lease_percent
        self._granted = MemoryCounters(clock)
        self._leases: dict[Counter, _Lease] = {}

    def answer(self, hit: Hit) -> Outcome:
        """Return the outcome of `hit`, which was not counted, and have metrics count it."""
        outcome = self.outcome(hit)
        self.note(hit, outcome)
        return outcome

    def outcome(self, hit: Hit) -> Outcome:
        """Return the outcome of `hit`, which was not counted."""
        if hit.away is Away.LEASE:
            return self._grant(hit)
        return Outcome(hit.away is Away.ALLOW, 0, RETRY_SECONDS)

    def note(self, hit: Hit, outcome: Outcome) -> None:
        """Have metrics count the outcome of `hit`, which was not counted."""
        self._answers.add((hit.away.value, "allowed" if outcome.allowed else "denied"))

    def lease_for(self, hit: Hit) -> Hit | None:
        """Return the hit that leases a share of the counter of `hit`, None if it has one or gets none."""
        share = self._share(hit)
        now = self._clock.monotonic()
        lease = self._leases.get((hit.limit_id, hit.key))
        if hit.hits <= 0 or share <= 0 or (lease is not None and lease.ends > now):
            return None
        if lease is None and len(self._leases) >= MAX_LEASES:
            self._leases = {counter: each for counter, each in self._leases.items() if each.ends > now}
            if len(self._leases) >= MAX_LEASES:
                return None
        # Not again until the answer is known: a second lease would be counted and not granted.
        self._leases[hit.limit_id, hit.key] = _Lease(now + RETRY_SECONDS, granted=False)
        algorithm = hit.algorithm
        if isinstance(algorithm, FixedWindow | CalendarWindow):
            algorithm = replace(algorithm, counts_refused=False)
        return Hit(hit.limit_id, hit.key, algorithm, share)

    def note_lease(self, lease: Hit, outcome: Outcome, sent: float) -> None:
        """Note what became of the hit of `lease_for`, sent at `sent` on the monotonic clock.

        One that did not fit into the limit any more is not tried again before the window ends.
        """
        ends = sent + outcome.reset_seconds - 1  # the seconds are rounded up
        self._leases[lease.limit_id, lease.key] = _Lease(ends, outcome.allowed)

    def spend_lease(self, hit: Hit, outcome: Outcome) -> Outcome:
        """Return the outcome of `hit`, which the store refused with `outcome`: allowed if it fits into the lease."""
        lease = self._leases.get((hit.limit_id, hit.key))
        if lease is None or not lease.granted or lease.ends <= self._clock.monotonic():
            return outcome
        granted = self._grant(hit)
        return granted._replace(reset_seconds=outcome.reset_seconds) if granted.allowed else outcome

    async def retain(self, limits: AbstractSet[LimitId]) -> None:
        """Forget the leases of every limit that is not one of `limits`."""
        await self._granted.retain(limits)
        for counter in [each for each in self._leases if each[0] not in limits]:
            del self._leases[counter]

    def _grant(self, hit: Hit) -> Outcome:
        share = self._share(hit)
        algorithm = replace(hit.algorithm, requests=share)
        if isinstance(algorithm, TokenBucket):
            algorithm = replace(algorithm, burst=min(algorithm.burst, share))
        elif isinstance(algorithm, FixedWindow | CalendarWindow):
            algorithm = replace(algorithm, counts_refused=False)
        (outcome,) = self._granted.add([hit._replace(algorithm=algorithm)])
        return outcome

    def _share(self, hit: Hit) -> int:
        return hit.algorithm.requests * self._percent // 100 if hit.away is Away.LEASE else 0
