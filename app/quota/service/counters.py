"""An operator's use cases of counters: see what is counted, and let it start again."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import structlog

from app.audit.model import record_of
from app.audit.ports import AuditTransactions
from app.core.clock import Clock
from app.core.errors import NotFoundError
from app.quota.model import CounterName, Descriptor, Entry, LimitId, LiveCounter
from app.quota.ports import CounterStore
from app.quota.rules.places import LimitPlace, Places, places_of
from app.quota.service import QuotaService
from app.spiffe.principal import Principal

# Characters of the values that an audit record has; a counter with longer ones is recorded without them.
MAX_RECORDED = 4096

log = structlog.get_logger(__name__)


class ShownCounter(NamedTuple):
    """A counter with the limit that it is of."""

    domain: str
    place: LimitPlace
    counter: LiveCounter


class ShownPage(NamedTuple):
    """Some counters, and the cursor of the page after them; None on the last page."""

    counters: Sequence[ShownCounter]
    following: str | None


class CounterService:
    """The counters of the active limits of `quotas`, in `store`.

    A reset is recorded before it is made, so that none is without a record: one that fails is in the audit log, too.
    """

    def __init__(self, quotas: QuotaService, store: CounterStore, audit: AuditTransactions, clock: Clock) -> None:
        self._quotas, self._store, self._audit, self._clock = quotas, store, audit, clock

    async def page(self, domain: str, rule: str | None, cursor: str | None, count: int) -> ShownPage:
        """Return some `count` counters of a domain, of the limit called `rule` if that is not None.

        Pages are those of the store. Raises NotFoundError if there is no such domain or limit, InvalidInputError for a
        `cursor` that no page had, UnavailableError if the store cannot be asked.
        """
        places = await self._places(domain, rule)
        algorithms = {limit_id: place.algorithm for limit_id, place in places.items()}
        page = await self._store.page(algorithms, cursor, count)
        shown = [ShownCounter(domain, places[counter.name[0]], counter) for counter in page.counters]
        return ShownPage(shown, page.following)

    async def reset(self, principal: Principal, domain: str, name: CounterName) -> int:
        """Let one counter start again. Raises NotFoundError if nothing is counted in it, UnavailableError."""
        places = await self._places(domain, None)
        if name[0] not in places:
            raise NotFoundError(f"the counter is of no limit that the domain {domain!r} has")
        return await self._reset(principal, domain, places, [name])

    async def reset_for(self, principal: Principal, domain: str, entries: Sequence[Entry]) -> int:
        """Let the counters start again that a request with one descriptor is counted in; return how many.

        Raises NotFoundError if there are none, UnavailableError.
        """
        places = await self._places(domain, None)
        request = self._quotas.match(domain, [Descriptor(tuple(entries))], 1)
        names = [(hit.limit_id, hit.key) for hit in request.hits]
        if not names:
            raise NotFoundError("no limit applies to the descriptor: meshward quota explain shows why")
        return await self._reset(principal, domain, places, names)

    async def reset_limit(self, principal: Principal, domain: str, rule: str) -> int:
        """Let every counter of a limit start again, and return how many there were.

        Raises NotFoundError if there is no such limit, UnavailableError.
        """
        places = await self._places(domain, rule)
        await self._record(principal, [(place, {"entries": "all"}) for place in places.values()])
        number = await self._store.reset_limits(places.keys())
        log.info("counters_reset", principal=principal.name, domain=domain, rule=rule, counters=number)
        return number

    async def _reset(self, principal: Principal, domain: str, places: Places, names: Sequence[CounterName]) -> int:
        algorithms = {limit_id: place.algorithm for limit_id, place in places.items()}
        counters = [counter for counter in await self._store.read(names, algorithms) if counter is not None]
        if not counters:
            raise NotFoundError("nothing is counted in a counter of its own for this descriptor")
        shown = [ShownCounter(domain, places[counter.name[0]], counter) for counter in counters]
        await self._record(principal, [(each.place, _state_of(each)) for each in shown])
        await self._store.reset([counter.name for counter in counters])
        for each in shown:
            log.info("counters_reset", principal=principal.name, domain=domain, rule=each.place.rule, counters=1)
        return len(counters)

    async def _record(self, principal: Principal, resets: Sequence[tuple[LimitPlace, Mapping[str, object]]]) -> None:
        now = self._clock.now()
        records = [record_of(principal, now, "counter.reset", place.rule, before=state) for place, state in resets]
        async with self._audit() as trail:
            await trail.record(*records)

    async def _places(self, domain: str, rule: str | None) -> dict[LimitId, LimitPlace]:
        """Return the limits of a domain that are called `rule`, all if that is None. Raises NotFoundError."""
        configs, limits = self._quotas.documents.snapshot, self._quotas.limits
        config = configs.index.get(domain) if configs else None
        namespace = limits.snapshot.index.namespaces.get(domain) if limits and limits.snapshot else None
        if config is None and namespace is None:
            raise NotFoundError(f"the domain {domain!r} has no limits, and no counters")
        places = await asyncio.to_thread(places_of, config, namespace)
        found = {limit_id: place for limit_id, place in places.items() if rule in {None, place.rule}}
        if not found:
            raise NotFoundError(f"the domain {domain!r} has no limit {rule!r}: /rlconfig lists them")
        return found


def _state_of(shown: ShownCounter) -> dict[str, object]:
    """Return a counter as the audit log has it."""
    entries = shown.place.entries_of(shown.counter.name[1])
    if entries is not None and sum(len(key) + len(value) for key, value in entries) > MAX_RECORDED:
        entries = None
    listed = None if entries is None else [{"key": key, "value": value} for key, value in entries]
    return {"entries": listed, "used": shown.counter.used}
