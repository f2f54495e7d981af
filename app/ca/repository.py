"""The CA's queries. Nothing here commits; `CaRepository` in `ports.py` documents each method."""

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import delete, select, update

from app.audit.repository import SqlAuditTrail
from app.ca.model import Entry, EntrySpec, IssuedSvid, JoinToken, Root, Signer, SigningRequest
from app.ca.ports import CaRepository
from app.ca.tables import EntryRow, JoinTokenRow, RootRow, SignerRow, SvidRow
from app.db.rows import Rows, affected, values_of
from app.spiffe.id import SpiffeId

ROOTS = Rows(RootRow, Root)
SIGNERS = Rows(SignerRow, Signer)
REQUESTS = Rows(SignerRow, SigningRequest)
SVIDS = Rows(SvidRow, IssuedSvid)
TOKENS = Rows(JoinTokenRow, JoinToken)
ENTRIES = Rows(EntryRow, Entry)


class SqlCaRepository(SqlAuditTrail, CaRepository):
    """A CaRepository over one session."""

    # Authorities

    async def roots(self) -> Sequence[Root]:
        return await ROOTS.all(self._session, ROOTS.select().order_by(RootRow.generation))

    async def add_root(self, root: Root) -> None:
        await ROOTS.insert(self._session, root)

    async def signers(self, root_id: str, now: datetime) -> Sequence[Signer]:
        query = (
            SIGNERS.select()
            .where(SignerRow.root_id == root_id, SignerRow.certificate.is_not(None), SignerRow.not_after > now)
            .order_by(SignerRow.not_after.desc(), SignerRow.id)
        )
        return await SIGNERS.all(self._session, query)

    async def signing_requests(self, root_id: str, limit: int) -> Sequence[SigningRequest]:
        query = (
            REQUESTS.select()
            .where(SignerRow.root_id == root_id, SignerRow.certificate.is_(None))
            .order_by(SignerRow.created_at, SignerRow.id)
            .limit(limit)
        )
        return await REQUESTS.all(self._session, query)

    async def add_signing_request(self, request: SigningRequest) -> None:
        await REQUESTS.insert(self._session, request)

    async def answer_signing_request(self, signer: Signer) -> bool:
        waiting = update(SignerRow).where(SignerRow.id == signer.id, SignerRow.certificate.is_(None))
        values = {"certificate": signer.certificate, "not_before": signer.not_before, "not_after": signer.not_after}
        return await affected(self._session, waiting.values(values)) > 0

    async def remove_signing_request(self, request_id: str) -> None:
        waiting = delete(SignerRow).where(SignerRow.id == request_id, SignerRow.certificate.is_(None))
        await self._session.execute(waiting)

    # Issued SVIDs

    async def add_svids(self, svids: Sequence[IssuedSvid]) -> None:
        await SVIDS.insert_all(self._session, svids)

    async def svids(self, before: int | None, limit: int, spiffe_id: SpiffeId | None) -> Sequence[IssuedSvid]:
        query = SVIDS.select().order_by(SvidRow.number.desc()).limit(limit)
        if before is not None:
            query = query.where(SvidRow.number < before)
        if spiffe_id is not None:
            query = query.where(SvidRow.spiffe_id == spiffe_id)
        return await SVIDS.all(self._session, query)

    async def remove_svids(self, ended_before: datetime, limit: int) -> int:
        stale = select(SvidRow.number).where(SvidRow.not_after < ended_before).limit(limit)
        return await affected(self._session, delete(SvidRow).where(SvidRow.number.in_(stale)))

    # Join tokens

    async def add_token(self, token: JoinToken, secret_hash: bytes) -> None:
        await TOKENS.insert(self._session, token, secret_hash=secret_hash)

    async def token_by_hash(self, secret_hash: bytes) -> JoinToken | None:
        return await TOKENS.first(self._session, TOKENS.select().where(JoinTokenRow.secret_hash == secret_hash))

    async def tokens_by_id(self, token_ids: Collection[str]) -> Sequence[JoinToken]:
        return await TOKENS.all(self._session, TOKENS.select().where(JoinTokenRow.id.in_(token_ids)))

    async def tokens(self, after: str | None, limit: int) -> Sequence[JoinToken]:
        query = TOKENS.select().order_by(JoinTokenRow.id).limit(limit)
        if after is not None:
            query = query.where(JoinTokenRow.id > after)
        return await TOKENS.all(self._session, query)

    async def redeem_tokens(self, token_ids: Collection[str], now: datetime) -> Collection[str]:
        # The rows are locked until the transaction ends: of any number that try at once, one finds a token unused. They
        # are locked in one order, so that two transactions with the same tokens do not wait for each other.
        rows = select(JoinTokenRow.id).where(JoinTokenRow.id.in_(token_ids)).order_by(JoinTokenRow.id)
        usable = update(JoinTokenRow).where(
            JoinTokenRow.id.in_(rows.with_for_update()),
            JoinTokenRow.redeemed_at.is_(None),
            JoinTokenRow.expires_at > now,
        )
        redeemed = usable.values(redeemed_at=now).returning(JoinTokenRow.id)
        return (await self._session.execute(redeemed)).scalars().all()

    async def remove_token(self, token_id: str) -> JoinToken | None:
        statement = delete(JoinTokenRow).where(JoinTokenRow.id == token_id)
        return await TOKENS.first(self._session, statement.returning(*TOKENS.columns))

    async def remove_tokens(self, expired_before: datetime, limit: int) -> int:
        stale = select(JoinTokenRow.id).where(JoinTokenRow.expires_at < expired_before).limit(limit)
        return await affected(self._session, delete(JoinTokenRow).where(JoinTokenRow.id.in_(stale)))

    # Entries

    async def add_entry(self, entry: Entry) -> None:
        await ENTRIES.insert(self._session, entry)

    async def entry(self, entry_id: str) -> Entry | None:
        return await ENTRIES.first(self._session, ENTRIES.select().where(EntryRow.id == entry_id))

    async def entry_of(self, spiffe_id: SpiffeId) -> Entry | None:
        return await ENTRIES.first(self._session, ENTRIES.select().where(EntryRow.spiffe_id == spiffe_id))

    async def entries_of(self, spiffe_ids: Collection[SpiffeId]) -> Sequence[Entry]:
        return await ENTRIES.all(self._session, ENTRIES.select().where(EntryRow.spiffe_id.in_(spiffe_ids)))

    async def entries(self, after: str | None, limit: int) -> Sequence[Entry]:
        query = ENTRIES.select().order_by(EntryRow.spiffe_id).limit(limit)
        if after is not None:
            query = query.where(EntryRow.spiffe_id > after)
        return await ENTRIES.all(self._session, query)

    async def replace_entry(self, entry_id: str, spec: EntrySpec, version: int, now: datetime) -> Entry | None:
        statement = update(EntryRow).where(EntryRow.id == entry_id, EntryRow.version == version)
        statement = statement.values({**values_of(spec), "version": version + 1, "updated_at": now})
        return await ENTRIES.first(self._session, statement.returning(*ENTRIES.columns))

    async def remove_entry(self, entry_id: str, version: int | None) -> Entry | None:
        statement = delete(EntryRow).where(EntryRow.id == entry_id)
        if version is not None:
            statement = statement.where(EntryRow.version == version)
        return await ENTRIES.first(self._session, statement.returning(*ENTRIES.columns))
