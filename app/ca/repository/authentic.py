"""The tables whose rows carry MACs, and the base of the CA's queries, which have them beside the session."""

from collections.abc import Collection

from sqlalchemy import bindparam
from sqlalchemy.ext.asyncio import AsyncSession

from app.audit.repository import SqlAuditTrail
from app.ca.model import AuthorityStage, Ban, Entry, JoinToken, ReplicaReport, Root, SigningRequest
from app.ca.tables import AuthorityStageRow, BanRow, EntryRow, JoinTokenRow, ReplicaRow, RootRow, SignerRow
from app.db.authentic import AuthenticRows, Refused
from app.db.macs import RowMacs
from app.db.prepared import Execution, Prepared
from app.db.types import SPIFFE_ID
from app.spiffe.id import SpiffeId


class AuthenticTables:
    """The tables whose rows grant an identity, and therefore carry MACs.

    A root whose certificate has the SHA-256 `trusted_root`, in hexadecimal, needs none.
    """

    def __init__(self, macs: RowMacs, refused: Refused, trusted_root: str | None = None) -> None:
        self.trusted_root = trusted_root
        self.roots = AuthenticRows(RootRow, Root, macs, refused, added=("origin",))
        self.stages = AuthenticRows(AuthorityStageRow, AuthorityStage, macs, refused)
        self.reports = AuthenticRows(ReplicaRow, ReplicaReport, macs, refused)
        self.requests = AuthenticRows(SignerRow, SigningRequest, macs, refused)
        self.tokens = AuthenticRows(JoinTokenRow, JoinToken, macs, refused, ("secret_hash",))
        self.entries = AuthenticRows(EntryRow, Entry, macs, refused)
        self.bans = AuthenticRows(BanRow, Ban, macs, refused)
        self._entries_of: dict[int, Prepared] = {}
        self.all = (self.roots, self.stages, self.reports, self.requests, self.tokens, self.entries, self.bans)

    def entries_of(self, spiffe_ids: Collection[SpiffeId]) -> Execution:
        """Return the query of the entries of SPIFFE IDs, of which there is at least one.

        It names the last one again until their number is a power of two, so that few queries are compiled.
        """
        wanted = tuple(spiffe_ids)
        count = 1 << (len(wanted) - 1).bit_length()
        if count not in self._entries_of:
            names = [f"id_{number}" for number in range(count)]
            ids = [bindparam(name, type_=SPIFFE_ID) for name in names]
            self._entries_of[count] = Prepared(self.entries.select().where(EntryRow.spiffe_id.in_(ids)), names)
        return self._entries_of[count]((*wanted, *wanted[-1:] * (count - len(wanted))))


class CaQueries(SqlAuditTrail):
    """The base of the CA's queries of one kind."""

    def __init__(self, session: AsyncSession, tables: AuthenticTables) -> None:
        super().__init__(session)
        self._tables = tables
