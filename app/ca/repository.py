"""Everything that the CA reads from and writes to the database. Nothing here commits."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import CursorResult, Executable, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.ca.model import Entry, EntrySpec, IssuedSvid, JoinToken, Root, Signer, SigningRequest, Surface
from app.ca.tables import EntryRow, JoinTokenRow, RootRow, SignerRow, SvidRow
from app.core.errors import InternalError
from app.spiffe.id import SpiffeId, TrustDomain


class SqlCaRepository:
    """A CaRepository over one session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    # Authorities

    async def roots(self) -> Sequence[Root]:
        """Return every root, oldest generation first."""
        rows = await self._session.scalars(select(RootRow).order_by(RootRow.generation))
        return [_root(row) for row in rows]

    async def add_root(self, root: Root) -> None:
        """Store a root. The transaction ends with ConflictError if its generation is taken."""
        await self._session.execute(
            insert(RootRow).values(
                id=root.id,
                generation=root.generation,
                trust_domain=root.trust_domain.name,
                certificate=root.certificate,
                not_before=root.not_before,
                not_after=root.not_after,
                created_at=root.created_at,
            )
        )

    async def signers(self, root_id: str, now: datetime) -> Sequence[Signer]:
        """Return the signing authorities under a root that end after `now`, the one that lasts longest first."""
        rows = await self._session.scalars(
            select(SignerRow)
            .where(SignerRow.root_id == root_id, SignerRow.certificate.is_not(None), SignerRow.not_after > now)
            .order_by(SignerRow.not_after.desc(), SignerRow.id)
        )
        return [_signer(row) for row in rows]

    async def signing_requests(self, root_id: str, limit: int) -> Sequence[SigningRequest]:
        """Return at most `limit` requests that wait for the holder of the root's key, oldest first."""
        rows = await self._session.scalars(
            select(SignerRow)
            .where(SignerRow.root_id == root_id, SignerRow.certificate.is_(None))
            .order_by(SignerRow.created_at, SignerRow.id)
            .limit(limit)
        )
        return [SigningRequest(row.id, row.root_id, row.request, row.created_at) for row in rows]

    async def add_signing_request(self, request: SigningRequest) -> None:
        """Store a request."""
        await self._session.execute(
            insert(SignerRow).values(
                id=request.id, root_id=request.root_id, request=request.request, created_at=request.created_at
            )
        )

    async def answer_signing_request(self, signer: Signer) -> bool:
        """Store the certificate that a request was waiting for. Returns False if it has been answered already."""
        return await self._changed(
            update(SignerRow)
            .where(SignerRow.id == signer.id, SignerRow.certificate.is_(None))
            .values(certificate=signer.certificate, not_before=signer.not_before, not_after=signer.not_after)
        )

    async def remove_signing_request(self, request_id: str) -> None:
        """Remove a request that cannot be answered."""
        await self._changed(delete(SignerRow).where(SignerRow.id == request_id, SignerRow.certificate.is_(None)))

    # Issued SVIDs

    async def add_svid(self, svid: IssuedSvid) -> None:
        """Record an SVID. The transaction ends with ConflictError if its serial number is taken."""
        await self._session.execute(
            insert(SvidRow).values(
                serial=svid.serial,
                spiffe_id=str(svid.spiffe_id),
                signer_id=svid.signer_id,
                fingerprint=svid.fingerprint,
                not_before=svid.not_before,
                not_after=svid.not_after,
                issued_at=svid.issued_at,
                surface=svid.surface.value,
                token_id=svid.token_id,
            )
        )

    async def svids(self, before: int | None, limit: int, spiffe_id: SpiffeId | None) -> Sequence[IssuedSvid]:
        """Return at most `limit` records numbered below `before`, the newest first, of one id or of all."""
        query = select(SvidRow).order_by(SvidRow.number.desc()).limit(limit)
        if before is not None:
            query = query.where(SvidRow.number < before)
        if spiffe_id is not None:
            query = query.where(SvidRow.spiffe_id == str(spiffe_id))
        return [_svid(row) for row in await self._session.scalars(query)]

    async def forget_svids(self, ended_before: datetime, limit: int) -> int:
        """Remove at most `limit` records of SVIDs that ended before the time, and return how many were removed."""
        stale = select(SvidRow.number).where(SvidRow.not_after < ended_before).limit(limit)
        return await self._count(delete(SvidRow).where(SvidRow.number.in_(stale)))

    # Join tokens

    async def add_token(self, token: JoinToken, secret_hash: bytes) -> None:
        """Store a token under the SHA-256 of its secret."""
        await self._session.execute(
            insert(JoinTokenRow).values(
                id=token.id,
                secret_hash=secret_hash,
                spiffe_id=str(token.spiffe_id),
                created_at=token.created_at,
                expires_at=token.expires_at,
                redeemed_at=token.redeemed_at,
            )
        )

    async def token_by_hash(self, secret_hash: bytes) -> JoinToken | None:
        """Return the token whose secret has this SHA-256, if there is one."""
        row = await self._session.scalar(select(JoinTokenRow).where(JoinTokenRow.secret_hash == secret_hash))
        return _token(row) if row else None

    async def tokens(self, after: str | None, limit: int) -> Sequence[JoinToken]:
        """Return at most `limit` tokens with ids above `after`, in the order of their ids."""
        query = select(JoinTokenRow).order_by(JoinTokenRow.id).limit(limit)
        if after is not None:
            query = query.where(JoinTokenRow.id > after)
        return [_token(row) for row in await self._session.scalars(query)]

    async def redeem_token(self, token_id: str, now: datetime) -> bool:
        """Mark a token as used at `now`. Returns False if there is none that is unused and has not expired.

        The row is locked until the transaction ends: of any number that try at once, one finds it unused.
        """
        return await self._changed(
            update(JoinTokenRow)
            .where(JoinTokenRow.id == token_id, JoinTokenRow.redeemed_at.is_(None), JoinTokenRow.expires_at > now)
            .values(redeemed_at=now)
        )

    async def remove_token(self, token_id: str) -> bool:
        """Remove a token. Returns False if there was none."""
        return await self._changed(delete(JoinTokenRow).where(JoinTokenRow.id == token_id))

    async def forget_tokens(self, expired_before: datetime, limit: int) -> int:
        """Remove at most `limit` tokens that expired before the time, and return how many were removed."""
        stale = select(JoinTokenRow.id).where(JoinTokenRow.expires_at < expired_before).limit(limit)
        return await self._count(delete(JoinTokenRow).where(JoinTokenRow.id.in_(stale)))

    # Entries

    async def add_entry(self, entry: Entry) -> None:
        """Store a new entry. The transaction ends with ConflictError if its SPIFFE ID has one."""
        await self._session.execute(
            insert(EntryRow).values(
                id=entry.id,
                spiffe_id=str(entry.spec.spiffe_id),
                version=entry.version,
                created_at=entry.created_at,
                updated_at=entry.updated_at,
                **_said(entry.spec),
            )
        )

    async def entry(self, entry_id: str) -> Entry | None:
        """Return the entry with this id, if there is one."""
        row = await self._session.scalar(select(EntryRow).where(EntryRow.id == entry_id))
        return _entry(row) if row else None

    async def entry_of(self, spiffe_id: SpiffeId) -> Entry | None:
        """Return the entry of a SPIFFE ID, if there is one."""
        row = await self._session.scalar(select(EntryRow).where(EntryRow.spiffe_id == str(spiffe_id)))
        return _entry(row) if row else None

    async def entries(self, after: str | None, limit: int) -> Sequence[Entry]:
        """Return at most `limit` entries whose SPIFFE IDs stand after the one given, in the database's order."""
        query = select(EntryRow).order_by(EntryRow.spiffe_id).limit(limit)
        if after is not None:
            query = query.where(EntryRow.spiffe_id > after)
        return [_entry(row) for row in await self._session.scalars(query)]

    async def replace_entry(self, entry_id: str, spec: EntrySpec, version: int, now: datetime) -> bool:
        """Store `spec` and count up the version. Returns False if there is no entry with this id and version."""
        return await self._changed(
            update(EntryRow)
            .where(EntryRow.id == entry_id, EntryRow.version == version)
            .values(version=version + 1, updated_at=now, **_said(spec))
        )

    async def remove_entry(self, entry_id: str, version: int | None) -> bool:
        """Remove an entry. Returns False if there is none with this id and, unless None, this version."""
        statement = delete(EntryRow).where(EntryRow.id == entry_id)
        if version is not None:
            statement = statement.where(EntryRow.version == version)
        return await self._changed(statement)

    async def _changed(self, statement: Executable) -> bool:
        return await self._count(statement) > 0

    async def _count(self, statement: Executable) -> int:
        result = await self._session.execute(statement)
        if not isinstance(result, CursorResult):
            raise InternalError("the database did not say how many rows it changed")
        return result.rowcount


def _root(row: RootRow) -> Root:
    return Root(
        id=row.id,
        generation=row.generation,
        trust_domain=TrustDomain(row.trust_domain),
        certificate=row.certificate,
        not_before=row.not_before,
        not_after=row.not_after,
        created_at=row.created_at,
    )


def _signer(row: SignerRow) -> Signer:
    if row.certificate is None or row.not_before is None or row.not_after is None:
        raise InternalError(f"the signing authority {row.id} is stored without its certificate")
    return Signer(row.id, row.root_id, row.certificate, row.not_before, row.not_after)


def _svid(row: SvidRow) -> IssuedSvid:
    return IssuedSvid(
        serial=row.serial,
        spiffe_id=SpiffeId.parse(row.spiffe_id),
        signer_id=row.signer_id,
        fingerprint=row.fingerprint,
        not_before=row.not_before,
        not_after=row.not_after,
        issued_at=row.issued_at,
        surface=Surface(row.surface),
        token_id=row.token_id,
        number=row.number,
    )


def _token(row: JoinTokenRow) -> JoinToken:
    return JoinToken(row.id, SpiffeId.parse(row.spiffe_id), row.created_at, row.expires_at, row.redeemed_at)


def _said(spec: EntrySpec) -> dict[str, Any]:
    return {
        "x509_svid_ttl_seconds": None if spec.x509_svid_ttl is None else int(spec.x509_svid_ttl.total_seconds()),
        "dns_names": list(spec.dns_names),
        "hint": spec.hint,
    }


def _entry(row: EntryRow) -> Entry:
    ttl = None if row.x509_svid_ttl_seconds is None else timedelta(seconds=row.x509_svid_ttl_seconds)
    spec = EntrySpec(SpiffeId.parse(row.spiffe_id), ttl, tuple(row.dns_names), row.hint)
    return Entry(row.id, spec, row.version, row.created_at, row.updated_at)
