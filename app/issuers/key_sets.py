"""The key sets that documents refer to by URL: each URL is fetched once for all documents."""

import asyncio
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Generic, TypeVar

from app.core.clock import Clock
from app.core.errors import InvalidInputError, PreconditionError, UnavailableError
from app.core.last_good import LastGoodFile
from app.issuers.keys import Fetched, IssuerKeys, KeySetSource, Pace
from app.spiffe.jwks import KeySet
from app.telemetry.metrics import Metrics

# Fetches at once: a few hundred servers that hang must not keep others from being asked.
MAX_FETCHES = 256
# As Istio: keys every 20 minutes, after a failure a minute, then twice as long each time, up to an hour. What was
# fetched last decides for a week, the time after which Istio forgets keys that nothing uses.
PACE = Pace(refresh=1200.0, retry=60.0, max_retry=3600.0, max_stale=7 * 24 * 3600.0)
# How many places a message names.
MAX_NAMED = 5

Place = TypeVar("Place", bound=Hashable)


class KeySets(Generic[Place]):
    """The keys of each place that is in use. `maintain` is to be called about once a second.

    Nothing is fetched within a call: fetches begin when a place is first used, and go on by themselves.
    """

    def __init__(
        self,
        source_of: Callable[[Place], KeySetSource],
        clock: Clock,
        metrics: Metrics,
        file: LastGoodFile,
        *,
        name_of: Callable[[Place], str] = str,
    ) -> None:
        """`file` keeps what was fetched last, for a start while servers are away.

        `name_of` returns what is fetched at a place: places of one name, as with two time limits, have the same keys.
        """
        self._source_of, self._clock, self._metrics, self._file = source_of, clock, metrics, file
        self._name_of = name_of
        self._keys: dict[Place, IssuerKeys] = {}
        # What the file had at the start, of places that were not in use since.
        self._kept: dict[str, Fetched] = {}
        self._saved: list[object] | None = None
        self._fetching = asyncio.Semaphore(MAX_FETCHES)

    def use(self, places: Iterable[Place]) -> None:
        """Have these places in use and no others, and begin to fetch what is not known yet."""
        wanted = dict.fromkeys(places)
        known = self._last_good()
        for place in self._keys.keys() - wanted.keys():
            self._keys.pop(place).close()
        for place in wanted:
            if place not in self._keys:
                source = _Bounded(self._source_of(place), self._fetching)
                keys = self._keys[place] = IssuerKeys(str(place), source, self._clock, self._metrics, PACE)
                name = self._name_of(place)
                kept = self._kept.pop(name, None)
                self._restore(keys, known.setdefault(name, kept) if kept else known.get(name))
                keys.begin_if_due()

    def known(self, place: Place) -> KeySet | None:
        """Return the keys of the place, None if none are known that may still be used."""
        keys = self._keys.get(place)
        return None if keys is None else keys.current

    def is_awaited(self, place: Place) -> bool:
        """Whether the first keys of the place are being fetched."""
        keys = self._keys.get(place)
        return keys is not None and keys.current is None and keys.is_fetching

    async def attempted(self, place: Place) -> None:
        """Return once the attempt to fetch the keys that is under way, if there is one, has ended."""
        if (keys := self._keys.get(place)) is not None:
            await keys.attempted()

    def look_again(self, place: Place) -> None:
        """Begin to fetch the keys, as a token is signed with one that is not known; but not too often."""
        if (keys := self._keys.get(place)) is not None:
            keys.begin_soon()

    async def maintain(self) -> None:
        """Begin to fetch what is due. Raises UnavailableError, naming places, while some cannot be fetched."""
        for keys in self._keys.values():
            keys.begin_if_due()
        problems = [keys.problem for keys in self._keys.values() if keys.problem]
        if problems:
            more = f"; and {len(problems) - MAX_NAMED} more" if len(problems) > MAX_NAMED else ""
            raise UnavailableError("; ".join(problems[:MAX_NAMED]) + more)

    async def load(self) -> None:
        """Read what was kept. Raises PreconditionError if that is refused, NotFoundError if there is nothing."""
        self._kept = await asyncio.to_thread(self._file.read, _fetched_of)
        for place, keys in self._keys.items():
            self._restore(keys, self._kept.get(self._name_of(place)))
        for place in self._keys:
            self._kept.pop(self._name_of(place), None)

    async def save(self) -> None:
        """Keep what was fetched, unless it is kept already. Raises as `LastGoodFile.write` does."""
        # Documents are active by now: what none of them names would be old when one does.
        self._kept.clear()
        found = self._last_good()
        items: list[object] = [
            [name, each.content.decode("utf-8", "surrogateescape"), each.at] for name, each in sorted(found.items())
        ]
        if items != self._saved:
            await asyncio.to_thread(self._file.write, items)
            self._saved = items

    def close(self) -> None:
        """End every attempt."""
        self.use(())

    def _last_good(self) -> dict[str, Fetched]:
        """Return what was fetched last of each name in use."""
        found: dict[str, Fetched] = {}
        for place, keys in self._keys.items():
            name, fetched = self._name_of(place), keys.last_good
            if fetched is not None and (name not in found or found[name].at <= fetched.at):
                found[name] = fetched
        return found

    def _restore(self, keys: IssuerKeys, kept: Fetched | None) -> None:
        if kept is None:
            return
        try:
            keys.restore(kept)
        except InvalidInputError as error:
            raise PreconditionError(f"{self._file.path}: {error.message}") from error


class _Bounded(KeySetSource):
    """A source that waits its turn, so that its own time begins when it is asked."""

    def __init__(self, source: KeySetSource, turns: asyncio.Semaphore) -> None:
        self._source, self._turns = source, turns

    async def fetch(self) -> bytes:
        """Return what the source does."""
        async with self._turns:
            return await self._source.fetch()


def _fetched_of(items: Iterable[Any]) -> dict[str, Fetched]:
    return {name: Fetched(content.encode("utf-8", "surrogateescape"), float(at)) for name, content, at in items}
