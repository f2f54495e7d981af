"""Counters in Valkey or Redis, shared by every process that uses the same servers."""

import asyncio
from collections.abc import Awaitable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial

from app.core.clock import Clock
from app.core.errors import UnavailableError
from app.quota.backends.valkey.away import RETRY_SECONDS, AwayAnswers
from app.quota.backends.valkey.browser import CounterBrowser
from app.quota.backends.valkey.servers import Outcomes, Servers
from app.quota.backends.valkey.wire import Key, PreparedHit, beside_of, key_of, name_of, pack_limit, prepare_named
from app.quota.model import (
    MAX_UINT32,
    Algorithm,
    Away,
    CalendarWindow,
    CounterName,
    CounterPage,
    FixedWindow,
    Hit,
    LimitId,
    LiveCounter,
    Outcome,
    Total,
)
from app.quota.rules.joint import AllOrNone, admit, refuses
from app.quota.rules.usage import live_counter, usage_probe
from app.telemetry.metrics import Metrics

# Counters that are known to be over their limit: each is refused here until its window ends.
MAX_KNOWN_OVER = 65_536
# Limits whose parameters are remembered: those of configurations, and the ones that requests bring.
MAX_KNOWN_LIMITS = 16_384
# Counters that are read in one batch, which hits wait for.
MAX_READ = 50
# How often other processes' resets are looked for, and the counter that each of them adds 1 to.
RESET_CHECK_SECONDS = 1.0
RESETS = Hit("resets", (), Total(MAX_UINT32), 1)
_LOOK = RESETS._replace(hits=0)

_LEASE = Away.LEASE


@dataclass(frozen=True, slots=True)
class _Over:
    """A window that is used up: until when on the monotonic clock, and the limit that it was counted against."""

    limit_id: LimitId
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
        self._refused_here = metrics.counters_over
        self._over: dict[Key, _Over] = {}
        # By the identity of the algorithm, which is faster to look up than the algorithm, and is kept beside it.
        self._limits: dict[int, tuple[Algorithm, bytes | CalendarWindow]] = {}
        self._browser = CounterBrowser(servers, prefix)

    async def run(self) -> None:
        """Keep the connections to the servers until cancelled; without them every hit is answered by policy."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._servers.run())
            tasks.create_task(self._follow_resets())

    def prepare(self, hits: Sequence[Hit]) -> Sequence[PreparedHit]:
        """Return `hits` as they are sent; see CounterStore."""
        return [self._prepared(hit) for hit in hits]

    def add(self, hits: Sequence[Hit]) -> list[Outcome] | Awaitable[list[Outcome]]:
        """Count `hits` in one round trip; see CounterStore."""
        return self.count(self.prepare(hits))

    def count(
        self, hits: Sequence[PreparedHit], joint: AllOrNone | None = None
    ) -> list[Outcome] | Awaitable[list[Outcome]]:
        """Count `hits` in one round trip; see CounterStore.

        What the servers do not count in time is answered by the policy of its limit, so that nothing is raised.
        """
        if joint is not None:
            return self._count_jointly(hits, joint)
        now = self._clock.monotonic()
        over = [self._find_over(hit, now) for hit in hits] if self._over else []
        sent = hits
        if any(over):
            sent = [hit for hit, known in zip(hits, over, strict=True) if known is None]
        else:
            over = []
        leases: Sequence[PreparedHit] = ()
        for hit, _, _ in sent:
            if hit.away is _LEASE:
                leases = self._leases_for(sent)
                break
        if sent:
            finish = partial(self._settle, sent, leases, over, now)
            counted = self._servers.add((*sent, *leases) if leases else sent, finish)
            if counted is not None:
                return counted
        outcomes = [self._away.answer(hit) for hit, _, _ in sent]
        return _merge(over, outcomes) if over else outcomes

    def _count_jointly(self, hits: Sequence[PreparedHit], joint: AllOrNone) -> list[Outcome] | Awaitable[list[Outcome]]:
        """Count all `hits` or none: in two steps where one cannot do it, or a lease may grant what servers refuse."""
        if not self._servers.counts_jointly or any(hit.away is _LEASE for hit, _, _ in hits):
            return self._ask_then_count(hits, joint)
        now = self._clock.monotonic()
        over = [self._find_over(hit, now) for hit in hits]
        refused = any(refusing and known for refusing, known in zip(joint.refusing, over, strict=True))
        places = [place for place, known in enumerate(over) if known is None]
        sent = [hits[place] for place in places]
        if sent:
            passing = [hit.away is Away.ALLOW for hit, _, _ in sent]
            rest = AllOrNone([joint.refusing[place] for place in places], joint.counts and not refused, passing)
            counted = self._servers.add(sent, partial(self._settle_jointly, sent, over), rest)
            if counted is not None:
                return counted
        return self._settle_jointly(sent, over, [None] * len(sent))

    def _settle_jointly(
        self, hits: Sequence[PreparedHit], over: Sequence[Outcome | None], results: Outcomes
    ) -> list[Outcome]:
        """Return the outcomes of a request. No window is known to be used up by what was refused and not counted."""
        outcomes = [
            self._away.answer(hit) if result is None else result
            for (hit, _, _), result in zip(hits, results, strict=True)
        ]
        return _merge(over, outcomes)

    async def _ask_then_count(self, hits: Sequence[PreparedHit], joint: AllOrNone) -> list[Outcome]:
        now = self._clock.monotonic()
        asked = [each._replace(hit=each.hit._replace(hits=0)) for each in hits]
        counted = self._servers.add(asked, list)
        results: Outcomes = [None] * len(hits) if counted is None else await counted
        over = [self._known_over(each, now) for each in hits]
        asked_for = sum(max(hit.hits, 0) for hit, _, _ in hits)
        probes = [
            self._probed(hit, known or result, asked_for)
            for (hit, _, _), known, result in zip(hits, over, results, strict=True)
        ]
        admitted = admit([each.hit for each in hits], probes)
        if joint.counts and not refuses(joint, admitted):
            outcomes = self.count(hits)  # which metrics count
            return outcomes if isinstance(outcomes, list) else await outcomes
        for (hit, _, _), known, result, outcome in zip(hits, over, results, admitted, strict=True):
            if known is not None:
                self._refused_here.add(())
            elif result is None:
                self._away.note(hit, outcome)
        return admitted

    def _probed(self, hit: Hit, result: Outcome | None, asked_for: int) -> Outcome:
        """Return what is left for `hit` of its limit or of a lease; all that is `asked_for` where that may pass."""
        asked = hit._replace(hits=0)
        if result is None and hit.away is Away.ALLOW:
            return Outcome(True, asked_for, RETRY_SECONDS)
        if result is None:
            return self._away.outcome(asked)
        if result.allowed and hit.hits <= result.remaining:
            return result
        return self._away.spend_lease(asked, result._replace(allowed=False, remaining=0))

    def _prepared(self, hit: Hit) -> PreparedHit:
        algorithm = hit.algorithm
        known = self._limits.get(id(algorithm))
        if known is None:
            parameters = algorithm if isinstance(algorithm, CalendarWindow) else pack_limit(algorithm)
            if len(self._limits) >= MAX_KNOWN_LIMITS:
                self._limits.clear()
            known = self._limits[id(algorithm)] = algorithm, parameters
        return PreparedHit(hit, key_of(self._prefix, hit.limit_id, hit.key), known[1])

    def _leases_for(self, hits: Sequence[PreparedHit]) -> Sequence[PreparedHit]:
        leases = [self._away.lease_for(hit) for hit, _, _ in hits if hit.away is _LEASE]
        return self.prepare([lease for lease in leases if lease is not None])

    async def retain(self, limits: AbstractSet[LimitId]) -> None:
        """Forget what is known of every limit that is not one of `limits`; its counters in the store expire."""
        await self._away.retain(limits)
        self._over = {key: over for key, over in self._over.items() if over.limit_id in limits}

    async def read(
        self, names: Sequence[CounterName], limits: Mapping[LimitId, Algorithm]
    ) -> Sequence[LiveCounter | None]:
        """Return the counters with `names`; see CounterStore."""
        return await self._read({self._name(name): name for name in names}, limits)

    async def page(self, limits: Mapping[LimitId, Algorithm], cursor: str | None, count: int) -> CounterPage:
        """Return some counters of `limits`, in the order that the servers have them; see CounterStore."""
        if not limits:
            return CounterPage((), None)
        found = await self._browser.find(limits.keys(), cursor, count)
        counters = await self._read(found.names, limits)
        return CounterPage(tuple(counter for counter in counters if counter is not None), found.cursor)

    async def reset(self, names: Collection[CounterName]) -> None:
        """Delete the counters with `names`; see CounterStore."""
        await self._browser.delete([self._name(name) for name in names])
        self._over.clear()
        await self._announce_reset()

    async def reset_limits(self, limits: Collection[LimitId]) -> int:
        """Delete every counter of `limits`; see CounterStore."""
        deleted = await self._browser.delete_limits(limits) if limits else 0
        self._over.clear()
        await self._announce_reset()
        return deleted

    async def _read(
        self, names: Mapping[Key, CounterName], limits: Mapping[LimitId, Algorithm]
    ) -> list[LiveCounter | None]:
        """Return the counters; None also of one whose name has something else in it. Raises UnavailableError."""
        found: list[LiveCounter | None] = []
        items = list(names.items())
        for start in range(0, len(items), MAX_READ):
            batch = items[start : start + MAX_READ]
            hits = [prepare_named(key, Hit(name[0], (), usage_probe(limits[name[0]]), 0)) for key, name in batch]
            # In the slot of each counter another one can always be read, so that None of it is that of a server.
            beside = [prepare_named(beside_of(self._prefix, key), _LOOK) for key, _ in batch]
            counted = self._servers.add((*hits, *beside), list)
            outcomes: Outcomes | None = None if counted is None else await counted
            if outcomes is None or None in outcomes[len(hits) :]:
                raise UnavailableError("the counters cannot be read: their store does not answer")
            found += [
                None if outcome is None else live_counter(name, limits[name[0]], outcome)
                for (_, name), outcome in zip(batch, outcomes, strict=False)
            ]
        return found

    async def _announce_reset(self) -> None:
        if await self._count_resets(RESETS) is None:
            raise UnavailableError("the counters are reset, but replicas that know them to be used up are not told")

    async def _follow_resets(self) -> None:
        """Forget which windows are used up when a counter was reset, here or by another process.

        A second time after a second: an answer from before the reset may have come after it.
        """
        known: int | None = None
        changed = False
        while True:
            await asyncio.sleep(RESET_CHECK_SECONDS)
            number = await self._count_resets(_LOOK)
            if number is None:
                continue
            if changed or number != known:
                self._over.clear()
            changed, known = number != known, number

    async def _count_resets(self, hit: Hit) -> int | None:
        counted = self._servers.add([self._prepared(hit)], list)
        (outcome,) = [None] if counted is None else await counted
        return None if outcome is None else outcome.remaining

    def _name(self, name: CounterName) -> Key:
        limit_id, key = name
        if isinstance(key, bytes):
            return name_of(self._prefix, limit_id, key.hex())
        return key_of(self._prefix, limit_id, key)

    def _settle(
        self,
        hits: Sequence[PreparedHit],
        leases: Sequence[PreparedHit],
        over: list[Outcome | None],
        now: float,
        results: Outcomes,
    ) -> list[Outcome]:
        """Return the outcomes of a request from the results of its `hits` that were sent, and of its leases."""
        if leases:
            for (lease, _, _), result in zip(leases, results[len(hits) :], strict=True):
                if result is not None:
                    self._away.note_lease(lease, result, now)
        outcomes = [
            result if result is not None and result[0] else self._refused(prepared, result, now)
            for prepared, result in zip(hits, results, strict=False)
        ]
        return _merge(over, outcomes) if over else outcomes

    def _refused(self, prepared: PreparedHit, result: Outcome | None, now: float) -> Outcome:
        """Return the outcome of what the store has not allowed."""
        if result is None:
            return self._away.answer(prepared.hit)
        result = self._away.spend_lease(prepared.hit, result)
        if not result.allowed:
            self._note_over(prepared, result, now)
        return result

    def _find_over(self, prepared: PreparedHit, now: float) -> Outcome | None:
        """Return the refusal of a hit whose window is known to be used up, which metrics count, None of another."""
        known = self._known_over(prepared, now)
        if known is not None:
            self._refused_here.add(())
        return known

    def _known_over(self, prepared: PreparedHit, now: float) -> Outcome | None:
        over = self._over.get(prepared.key)
        if over is None or over.ends <= now or over.requests < prepared.hit.algorithm.requests:
            return None
        return Outcome(False, 0, int(over.ends - now) + 1)

    def _note_over(self, prepared: PreparedHit, outcome: Outcome, now: float) -> None:
        """Remember a window whose limit is exceeded: with refused hits counted, nothing fits into it any more."""
        limit_id, algorithm = prepared.hit.limit_id, prepared.hit.algorithm
        if not isinstance(algorithm, (FixedWindow, CalendarWindow)) or not algorithm.counts_refused:
            return
        ends = now + outcome.reset_seconds - 1  # the seconds are rounded up
        if ends <= now:
            return
        if prepared.key not in self._over and len(self._over) >= MAX_KNOWN_OVER:
            del self._over[next(iter(self._over))]  # the one that has been known longest: the store is asked for it
        self._over[prepared.key] = _Over(limit_id, ends, algorithm.requests)


def _merge(over: Sequence[Outcome | None], outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the outcomes that are known in `over`, the others from `outcomes` in their order."""
    rest = iter(outcomes)
    return [next(rest) if known is None else known for known in over]
