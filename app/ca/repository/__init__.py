"""The CA's queries. Nothing here commits; `CaRepository` in `ports.py` documents each method."""

from collections.abc import Collection, Sequence

import structlog

from app.ca.model import Entry
from app.ca.ports import CaRepository
from app.ca.repository.authorities import AuthorityQueries
from app.ca.repository.bans import HELD_REVISION, BanQueries, revision_of
from app.ca.repository.identities import IdentityQueries
from app.ca.repository.log import LOG_STATE, LogQueries
from app.ca.repository.svids import SvidQueries
from app.ca.rules.merkle import Frontier
from app.core.errors import PreconditionError
from app.db.macs import RowMacs
from app.db.prepared import execute
from app.spiffe.id import SpiffeId

log = structlog.get_logger(__name__)

OTHER_REPLICAS = (
    "the rows of this database were written with another secret: put the keys/replica.secret of the other replicas, or "
    "of a backup, into this data directory"
)


class SqlCaRepository(AuthorityQueries, IdentityQueries, SvidQueries, LogQueries, BanQueries, CaRepository):
    """A CaRepository over one session."""

    async def hold_for_issuance(self, spiffe_ids: Collection[SpiffeId]) -> tuple[int, Sequence[Entry], Frontier]:
        entries, steps = self._tables.entries, (HELD_REVISION, self._tables.entries_of(spiffe_ids), LOG_STATE)
        with entries.reading():
            revision, found, state = await execute(self._session, *steps)
        return revision_of(revision), entries.authentic(found), await self.frontier_of(state)

    async def adopt(self) -> None:
        """Give a MAC to roots and entries that have none, as those of versions that had no MACs.

        Raises PreconditionError if the database has rows of another secret.
        """
        tables = self._tables
        for rows in tables.all:
            if await rows.has_foreign(self._session):
                raise PreconditionError(OTHER_REPLICAS)
        for rows in (tables.roots, tables.entries):
            if adopted := await rows.adopt(self._session):
                log.warning("rows_adopted", table=rows.name, rows=adopted)

    async def renew_macs(self, known: RowMacs | None) -> int:
        """Give the rows that `known` verifies MACs of this secret, and return how many those were.

        If it is None, all roots, stages, entries and bans get one, even if another writer added them.
        """
        tables = self._tables
        renewed = 0
        for rows in (tables.roots, tables.stages, tables.entries, tables.bans) if known is None else tables.all:
            renewed += await rows.renew_macs(self._session, known)
        return renewed
