"""A start without the database: with what was last known to be good, until the database is back."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from app.authz.backends.kept_api_keys import KeptApiKeys
from app.authz.service.api_keys import ApiKeys
from app.ca.backends.kept import KeptAuthorities, KeptBans
from app.ca.service.authorities import Authorities
from app.ca.service.bans import Bans
from app.core.errors import MeshwardError, NotFoundError, UnavailableError
from app.documents.kept import KEPT_REVISION, KeptSource
from app.documents.store import DocumentStore
from app.issuers.key_sets import KeySets
from app.telemetry.metrics import Metrics

DIRECTORY = "last-good"

AnyStore = DocumentStore[Any, Any, Any]
AnyKeySets = KeySets[Any]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class KeptDocuments:
    """The documents of one kind that the database has: where they are read, and the store that has them active."""

    source: KeptSource
    store: AnyStore


class LastGood:
    """Keeps policies, limits, bans, API keys and the CA's certificates in files, and starts with them if it has to."""

    def __init__(
        self,
        authorities: tuple[Authorities, KeptAuthorities],
        bans: tuple[Bans, KeptBans],
        api_keys: tuple[ApiKeys, KeptApiKeys],
        documents: Sequence[KeptDocuments],
        key_sets: AnyKeySets,
        metrics: Metrics,
    ) -> None:
        """Take what is active, each with its file."""
        (self._authorities, self._kept), (self._bans, self._kept_bans) = authorities, bans
        self._api_keys, self._kept_api_keys = api_keys
        self._documents, self._key_sets, self._metrics = tuple(documents), key_sets, metrics

    async def load_keys(self) -> None:
        """Take the keys of issuers that were kept: their servers may be away, too."""
        try:
            await self._key_sets.load()
        except NotFoundError:
            return
        except MeshwardError as error:
            log.warning("kept_keys_refused", reason=error.message)

    async def restore(self, away: UnavailableError) -> None:
        """Make what is kept active; `away` is why the database cannot be used.

        Raises `away` if nothing is kept, as before the first start with a database; a MeshwardError that has both
        reasons if what is kept is refused.
        """
        try:
            self._bans.restore(await self._kept_bans.load())
            await self._authorities.restore(await self._kept.load())
            self._api_keys.restore(await self._kept_api_keys.load())
            for each in self._documents:
                await each.source.restore()
                await each.store.refresh()
        except NotFoundError:
            raise away from None
        except MeshwardError as error:
            raise type(error)(f"{away.message}; without the database: {error.message}") from error
        log.warning("started_without_database", reason=away.message)
        self._mark()

    def use_database(self) -> None:
        """Have the documents read from the database, with the next refresh."""
        for each in self._documents:
            each.source.use_database()

    async def save(self) -> None:
        """Keep what is active, if it has changed since. Raises a MeshwardError if some of it cannot be kept."""
        self._mark()
        problem: MeshwardError | None = None
        work: list[Callable[[], Awaitable[None]]] = [
            partial(self._kept.save, self._authorities.known()),
            partial(self._kept_bans.save, self._bans.known()),
            self._save_api_keys,
            self._key_sets.save,
        ]
        work += [
            partial(each.source.save, each.store.snapshot.revision) for each in self._documents if each.store.snapshot
        ]
        for save in work:
            try:
                await save()
            except MeshwardError as error:
                problem = error
        if problem is not None:
            raise problem

    async def _save_api_keys(self) -> None:
        await self._kept_api_keys.save(self._api_keys.known())

    def _mark(self) -> None:
        for each in self._documents:
            self._metrics.config_stale.set((each.source.kind.name,), int(is_stale(each.store)))


def is_stale(store: AnyStore) -> bool:
    """Whether the active documents are those that were kept in a file."""
    return store.snapshot is not None and store.snapshot.revision == KEPT_REVISION
