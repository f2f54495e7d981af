"""The CA's queries. Nothing here commits; `CaRepository` in `ports.py` documents each method."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Select, String, and_, case, delete, func, insert, or_, select, text, type_coerce, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.audit.repository import SqlAuditTrail
from app.ca.model import (
    AuthorityStage,
    Ban,
    Crl,
    Entry,
    EntrySpec,
    IssuedSvid,
    JoinToken,
    LogLeaf,
    ReplicaReport,
    Root,
    SignedTreeHead,
    Signer,
    SigningRequest,
    Surface,
)
from app.ca.ports import CaRepository
from app.ca.rules.authority import has_certificate
from app.ca.rules.bans import EVERYTHING_BELOW
from app.ca.rules.merkle import HASH_BYTES, TILE_WIDTH, Frontier, Node, Tile
from app.ca.tables import (
    AuthorityStageRow,
    BanRevisionRow,
    BanRow,
    CrlRow,
    EntryRow,
    JoinTokenRow,
    LogHeadRow,
    LogNodeRow,
    LogRow,
    LogStateRow,
    ReplicaRow,
    RootRow,
    SignerRow,
    SvidRow,
)
from app.core.errors import PreconditionError
from app.db.authentic import AuthenticRows, Refused
from app.db.base import Base
from app.db.macs import RowMacs
from app.db.rows import Rows, affected, values_of
from app.spiffe.id import SpiffeId

log = structlog.get_logger(__name__)

SIGNERS = Rows(SignerRow, Signer)
SVIDS = Rows(SvidRow, IssuedSvid)
TOKENS = Rows(JoinTokenRow, JoinToken)
ENTRIES = Rows(EntryRow, Entry)
LEAVES = Rows(LogRow, LogLeaf)
HEADS = Rows(LogHeadRow, SignedTreeHead)
LOG_STATE_ID = 1

# Of tables and not of their classes, made once: every transaction that records SVIDs executes them.
_NODES, _STATE, _REVISIONS = (
    Base.metadata.tables[row.__tablename__] for row in (LogNodeRow, LogStateRow, BanRevisionRow)
)
_INSERT_NODES = insert(_NODES)
_LOG_STATE = select(_STATE.c.size, _STATE.c.peaks).where(_STATE.c.id == LOG_STATE_ID).with_for_update()
_GROW_LOG = update(_STATE).where(_STATE.c.id == LOG_STATE_ID)
BANS = Rows(BanRow, Ban)
CRLS = Rows(CrlRow, Crl)
BAN_REVISION = select(_REVISIONS.c.revision)
HELD_REVISION = BAN_REVISION.with_for_update(read=True)
# One statement on both databases, so that the first two writers ever cannot both insert the row.
NEXT_BAN_REVISION = text(
    "INSERT INTO ca_ban_revisions (id, revision) VALUES (1, 1) "
    "ON CONFLICT (id) DO UPDATE SET revision = ca_ban_revisions.revision + 1 RETURNING revision"
)


class AuthenticTables:
    """The tables whose rows grant an identity, and therefore carry MACs.

    A root whose certificate has the SHA-256 `trusted_root`, in hexadecimal, needs none.
    """

    def __init__(self, macs: RowMacs, refused: Refused, trusted_root: str | None = None) -> None:
        self.trusted_root = trusted_root
        self.roots = AuthenticRows(RootRow, Root, macs, refused)
        self.stages = AuthenticRows(AuthorityStageRow, AuthorityStage, macs, refused)
        self.reports = AuthenticRows(ReplicaRow, ReplicaReport, macs, refused)
        self.requests = AuthenticRows(SignerRow, SigningRequest, macs, refused)
        self.tokens = AuthenticRows(JoinTokenRow, JoinToken, macs, refused, ("secret_hash",))
        self.entries = AuthenticRows(EntryRow, Entry, macs, refused)
        self.bans = AuthenticRows(BanRow, Ban, macs, refused)
        self.all = (self.roots, self.stages, self.reports, self.requests, self.tokens, self.entries, self.bans)


OTHER_REPLICAS = (
    "the rows of this database were written with another secret: put the keys/replica.secret of the other replicas, or "
    "of a backup, into this data directory"
)


class SqlCaRepository(SqlAuditTrail, CaRepository):
    """A CaRepository over one session."""

    def __init__(self, session: AsyncSession, tables: AuthenticTables) -> None:
        super().__init__(session)
        self._tables = tables

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

    # Authorities

    async def roots(self) -> Sequence[Root]:
        query = self._tables.roots.select().order_by(RootRow.generation)
        return await self._tables.roots.all(self._session, query, self._trusts)

    async def has_roots(self) -> bool:
        return (await self._session.execute(select(RootRow.id).limit(1))).first() is not None

    async def add_root(self, root: Root) -> None:
        await self._tables.roots.insert(self._session, root)

    async def hold_authorities(self) -> None:
        # Not against rows that refer to a root, such as signing requests.
        await self._session.execute(select(RootRow.id).order_by(RootRow.id).with_for_update(key_share=True))

    async def stages(self) -> Sequence[AuthorityStage]:
        query = self._tables.stages.select().order_by(AuthorityStageRow.number, AuthorityStageRow.id)
        return await self._tables.stages.all(self._session, query)

    async def put_stage(self, stage: AuthorityStage) -> None:
        await self._session.execute(delete(AuthorityStageRow).where(AuthorityStageRow.id == stage.id))
        await self._tables.stages.insert(self._session, stage)

    async def put_report(self, report: ReplicaReport) -> None:
        await self.remove_report(report.id)
        await self._tables.reports.insert(self._session, report)

    async def reports(self) -> Sequence[ReplicaReport]:
        query = self._tables.reports.select().order_by(ReplicaRow.id)
        return await self._tables.reports.all(self._session, query)

    async def remove_report(self, replica_id: str) -> None:
        await self._session.execute(delete(ReplicaRow).where(ReplicaRow.id == replica_id))

    async def identities_under(self, root_id: str, now: datetime, limit: int) -> Sequence[SpiffeId]:
        under = SvidRow.signer_id.in_(select(SignerRow.id).where(SignerRow.root_id == root_id))
        query = (
            select(SvidRow.spiffe_id)
            .where(SvidRow.not_after > now)
            .group_by(SvidRow.spiffe_id)
            .having(func.min(case((under, 1), else_=0)) == 1)
            .limit(limit)
        )
        return (await self._session.scalars(query)).all()

    async def unrenewed(self, before: datetime, now: datetime, limit: int) -> Sequence[SpiffeId]:
        query = (
            select(SvidRow.spiffe_id)
            .where(SvidRow.not_after > now, SvidRow.surface == Surface.ISTIO_CA)
            .group_by(SvidRow.spiffe_id)
            .having(func.max(SvidRow.issued_at) < before)
            .limit(limit)
        )
        return (await self._session.scalars(query)).all()

    async def signers(self, root_id: str, now: datetime) -> Sequence[Signer]:
        query = (
            SIGNERS.select()
            .where(SignerRow.root_id == root_id, SignerRow.certificate.is_not(None), SignerRow.not_after > now)
            .order_by(SignerRow.not_after.desc(), SignerRow.id)
        )
        return await SIGNERS.all(self._session, query)

    async def signing_requests(self, root_id: str, limit: int) -> Sequence[SigningRequest]:
        return await self._tables.requests.all(self._session, self._waiting(root_id, limit))

    async def unapproved_requests(self, root_id: str, limit: int) -> Sequence[SigningRequest]:
        return await self._tables.requests.unauthentic(self._session, self._waiting(root_id, limit))

    async def approve_signing_request(self, request: SigningRequest) -> bool:
        return await self._tables.requests.authenticate(self._session, request)

    async def add_signing_request(self, request: SigningRequest) -> None:
        await self._tables.requests.insert(self._session, request)

    async def answer_signing_request(self, signer: Signer) -> bool:
        waiting = update(SignerRow).where(SignerRow.id == signer.id, SignerRow.certificate.is_(None))
        values = {"certificate": signer.certificate, "not_before": signer.not_before, "not_after": signer.not_after}
        return await affected(self._session, waiting.values(values)) > 0

    async def remove_signing_request(self, request_id: str) -> None:
        waiting = delete(SignerRow).where(SignerRow.id == request_id, SignerRow.certificate.is_(None))
        await self._session.execute(waiting)

    # Issued SVIDs

    async def add_svids(self, svids: Sequence[IssuedSvid]) -> None:
        await SVIDS.insert(self._session, *svids)

    async def svids(self, before: int | None, limit: int, spiffe_id: SpiffeId | None) -> Sequence[IssuedSvid]:
        query = SVIDS.select().order_by(SvidRow.number.desc()).limit(limit)
        if before is not None:
            query = query.where(SvidRow.number < before)
        if spiffe_id is not None:
            query = query.where(SvidRow.spiffe_id == spiffe_id)
        return await SVIDS.all(self._session, query)

    async def svid(self, serial: str) -> IssuedSvid | None:
        return await SVIDS.first(self._session, SVIDS.select().where(SvidRow.serial == serial))

    async def oldest_svid(self, now: datetime) -> datetime | None:
        oldest = select(func.min(SvidRow.issued_at)).where(SvidRow.not_after > now)
        found: datetime | None = (await self._session.execute(oldest)).scalar()
        return found

    async def remove_svids(self, ended_before: datetime, limit: int) -> int:
        stale = select(SvidRow.number).where(SvidRow.not_after < ended_before).limit(limit)
        return await affected(self._session, delete(SvidRow).where(SvidRow.number.in_(stale)))

    # Transparency log

    async def log_frontier(self) -> Frontier:
        row = (await self._session.execute(_LOG_STATE)).one_or_none()
        if row is None:  # until something is appended
            await self._session.execute(insert(LogStateRow), {"id": LOG_STATE_ID, "size": 0, "peaks": b""})
            return Frontier()
        hashes = [row.peaks[start : start + HASH_BYTES] for start in range(0, len(row.peaks), HASH_BYTES)]
        return Frontier(row.size, tuple(hashes))

    async def extend_log(self, leaves: Sequence[LogLeaf], nodes: Mapping[Node, bytes], frontier: Frontier) -> None:
        await LEAVES.insert(self._session, *leaves)
        if nodes:
            rows = [{"level": node.level, "index": node.index, "hash": hashed} for node, hashed in nodes.items()]
            await self._session.execute(_INSERT_NODES, rows)
        await self._session.execute(_GROW_LOG, {"size": frontier.size, "peaks": b"".join(frontier.peaks)})

    async def log_leaves(self, start: int, limit: int) -> Sequence[LogLeaf]:
        query = LEAVES.select().where(LogRow.index >= start).order_by(LogRow.index).limit(limit)
        return await LEAVES.all(self._session, query)

    async def log_leaf_of(self, subject: str) -> LogLeaf | None:
        query = LEAVES.select().where(LogRow.subject == subject).order_by(LogRow.index.desc()).limit(1)
        return await LEAVES.first(self._session, query)

    async def log_nodes(self, tiles: Collection[Tile]) -> Mapping[Node, bytes]:
        leaves = [LogRow.index.between(*_run(tile)) for tile in tiles if tile.level == 0]
        others = [
            and_(LogNodeRow.level == tile.level, LogNodeRow.index.between(*_run(tile))) for tile in tiles if tile.level
        ]
        nodes: dict[Node, bytes] = {}
        if leaves:
            query = select(LogRow.index, LogRow.hash).where(or_(*leaves))
            nodes = {Node(0, index): hashed for index, hashed in await self._session.execute(query)}
        if others:
            stored = select(LogNodeRow.level, LogNodeRow.index, LogNodeRow.hash).where(or_(*others))
            for level, index, hashed in await self._session.execute(stored):
                nodes[Node(level, index)] = hashed
        return nodes

    async def add_head(self, head: SignedTreeHead) -> None:
        if await self.head_of(head.size) is None:
            await HEADS.insert(self._session, head)

    async def newest_head(self) -> SignedTreeHead | None:
        return await HEADS.first(self._session, HEADS.select().order_by(LogHeadRow.size.desc()).limit(1))

    async def head_of(self, size: int) -> SignedTreeHead | None:
        return await HEADS.first(self._session, HEADS.select().where(LogHeadRow.size == size))

    # Join tokens

    async def add_token(self, token: JoinToken, secret_hash: bytes) -> None:
        await self._tables.tokens.insert(self._session, token, secret_hash=secret_hash)

    async def token_by_hash(self, secret_hash: bytes) -> JoinToken | None:
        tokens = self._tables.tokens
        return await tokens.first(self._session, tokens.select().where(JoinTokenRow.secret_hash == secret_hash))

    async def tokens_by_id(self, token_ids: Collection[str]) -> Sequence[JoinToken]:
        tokens = self._tables.tokens
        return await tokens.all(self._session, tokens.select().where(JoinTokenRow.id.in_(token_ids)))

    async def tokens(self, after: str | None, limit: int) -> Sequence[JoinToken]:
        return await self._tables.tokens.page(self._session, "id", after, limit)

    async def redeem_tokens(self, token_ids: Collection[str], now: datetime) -> Collection[str]:
        def redeemed(token: JoinToken) -> JoinToken | None:
            return replace(token, redeemed_at=now) if token.usable(now) else None

        query = self._tables.tokens.select().where(JoinTokenRow.id.in_(token_ids))
        return [token.id for token in await self._tables.tokens.change(self._session, query, redeemed)]

    async def remove_token(self, token_id: str) -> JoinToken | None:
        statement = delete(JoinTokenRow).where(JoinTokenRow.id == token_id)
        return await TOKENS.first(self._session, statement.returning(*TOKENS.columns))

    async def remove_tokens(self, expired_before: datetime, limit: int) -> int:
        stale = select(JoinTokenRow.id).where(JoinTokenRow.expires_at < expired_before).limit(limit)
        return await affected(self._session, delete(JoinTokenRow).where(JoinTokenRow.id.in_(stale)))

    # Entries

    async def add_entry(self, entry: Entry) -> None:
        await self._tables.entries.insert(self._session, entry)

    async def entry(self, entry_id: str) -> Entry | None:
        entries = self._tables.entries
        return await entries.first(self._session, entries.select().where(EntryRow.id == entry_id))

    async def entry_of(self, spiffe_id: SpiffeId) -> Entry | None:
        entries = self._tables.entries
        return await entries.first(self._session, entries.select().where(EntryRow.spiffe_id == spiffe_id))

    async def entries_of(self, spiffe_ids: Collection[SpiffeId]) -> Sequence[Entry]:
        entries = self._tables.entries
        return await entries.all(self._session, entries.select().where(EntryRow.spiffe_id.in_(spiffe_ids)))

    async def entries(self, after: str | None, limit: int) -> Sequence[Entry]:
        return await self._tables.entries.page(self._session, "spiffe_id", after, limit)

    async def replace_entry(self, entry_id: str, spec: EntrySpec, version: int, now: datetime) -> Entry | None:
        def replaced(entry: Entry) -> Entry:
            return replace(entry, **values_of(spec), version=version + 1, updated_at=now)

        query = self._tables.entries.select().where(EntryRow.id == entry_id, EntryRow.version == version)
        changed = await self._tables.entries.change(self._session, query, replaced)
        return changed[0] if changed else None

    async def remove_entry(self, entry_id: str, version: int | None) -> Entry | None:
        statement = delete(EntryRow).where(EntryRow.id == entry_id)
        if version is not None:
            statement = statement.where(EntryRow.version == version)
        return await ENTRIES.first(self._session, statement.returning(*ENTRIES.columns))

    # Bans

    async def ban_revision(self) -> int:
        return await self._session.scalar(BAN_REVISION) or 0

    async def hold_bans(self) -> int:
        return await self._session.scalar(HELD_REVISION) or 0

    async def next_ban_revision(self) -> int:
        return int((await self._session.execute(NEXT_BAN_REVISION)).scalar_one())

    async def bans(self) -> Sequence[Ban]:
        bans = self._tables.bans
        return await bans.all(self._session, bans.select().order_by(BanRow.subject))

    async def ban_page(self, after: str | None, limit: int) -> Sequence[Ban]:
        return await self._tables.bans.page(self._session, "subject", after, limit)

    async def add_ban(self, ban: Ban) -> None:
        await self._tables.bans.insert(self._session, ban)

    async def remove_ban(self, subject: str) -> Ban | None:
        statement = delete(BanRow).where(BanRow.subject == subject)
        return await BANS.first(self._session, statement.returning(*BANS.columns))

    async def remove_bans(self, ended_before: datetime, limit: int) -> int:
        stale = select(BanRow.id).where(BanRow.expires_at < ended_before).limit(limit)
        return await affected(self._session, delete(BanRow).where(BanRow.id.in_(stale)))

    # Revocation lists

    async def crl_numbers(self) -> Mapping[str, int]:
        found = await self._session.execute(select(CrlRow.id, CrlRow.number))
        return {row.id: row.number for row in found}

    async def crls(self, authority_ids: Collection[str]) -> Sequence[Crl]:
        return await CRLS.all(self._session, CRLS.select().where(CrlRow.id.in_(authority_ids)))

    async def put_crl(self, crl: Crl) -> None:
        await self._session.execute(delete(CrlRow).where(CrlRow.id == crl.id, CrlRow.number < crl.number))
        await CRLS.insert(self._session, crl)

    async def live_svids(
        self, signer_id: str, subjects: Sequence[str], now: datetime, limit: int
    ) -> Sequence[IssuedSvid]:
        spiffe_id = type_coerce(SvidRow.spiffe_id, String)
        prefixes = [each.removesuffix("*") for each in subjects if each.endswith(EVERYTHING_BELOW)]
        named = or_(
            SvidRow.serial.in_(subjects),
            spiffe_id.in_(subjects),
            *(spiffe_id.startswith(prefix, autoescape=True) for prefix in prefixes),
        )
        query = SVIDS.select().where(SvidRow.signer_id == signer_id, SvidRow.not_after > now, named).limit(limit)
        return await SVIDS.all(self._session, query)

    def _trusts(self, root: Root) -> bool:
        trusted = self._tables.trusted_root
        return trusted is not None and has_certificate(root, trusted)

    def _waiting(self, root_id: str, limit: int) -> Select[Any]:
        query = self._tables.requests.select().where(SignerRow.root_id == root_id, SignerRow.certificate.is_(None))
        return query.order_by(SignerRow.created_at, SignerRow.id).limit(limit)


def _run(tile: Tile) -> tuple[int, int]:
    """Return the first and the last index of a tile."""
    first = tile.number * TILE_WIDTH
    return first, first + TILE_WIDTH - 1
