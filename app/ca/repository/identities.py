"""Queries of join tokens and entries, which decide who gets which identity."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import delete, select

from app.ca.model import Entry, EntrySpec, JoinToken
from app.ca.repository.authentic import CaQueries
from app.ca.tables import EntryRow, JoinTokenRow
from app.db.rows import Rows, affected, values_of
from app.spiffe.id import SpiffeId

TOKENS = Rows(JoinTokenRow, JoinToken)
ENTRIES = Rows(EntryRow, Entry)


class IdentityQueries(CaQueries):
    """What `CaRepository` has under "Join tokens" and "Entries"."""

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

    async def add_entry(self, entry: Entry) -> None:
        await self._tables.entries.insert(self._session, entry)

    async def entry(self, entry_id: str) -> Entry | None:
        entries = self._tables.entries
        return await entries.first(self._session, entries.select().where(EntryRow.id == entry_id))

    async def entry_of(self, spiffe_id: SpiffeId) -> Entry | None:
        entries = self._tables.entries
        return await entries.first(self._session, entries.select().where(EntryRow.spiffe_id == spiffe_id))

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
