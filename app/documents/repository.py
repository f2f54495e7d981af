"""The queries of versioned documents. Nothing here commits; `DocumentRepository` in `ports.py` has the docstrings."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Select, delete, func, insert, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from app.audit.repository import SqlAuditTrail
from app.db.rows import Rows
from app.documents.model import DocumentKey, StoredDocument
from app.documents.ports import REVISIONS_KEPT, DocumentRepository
from app.documents.tables import DocumentDeletionRow, DocumentRevisionRow, DocumentRow

# Rows that are read at once: what is made of them does not hold the event loop.
ROWS_AT_ONCE = 100

DOCUMENTS = Rows(DocumentRow, StoredDocument)
KEY = tuple_(DocumentRow.namespace, DocumentRow.name)
PLACE = tuple_(DocumentRow.version, DocumentRow.namespace, DocumentRow.name)
# One statement on both databases, so that the first two writers ever cannot both insert the row. It locks the row, on
# SQLite the database, until the transaction ends.
NEXT_REVISION = text(
    "INSERT INTO document_revisions (kind, revision) VALUES (:kind, 1) "
    "ON CONFLICT (kind) DO UPDATE SET revision = document_revisions.revision + 1 RETURNING revision"
)


class SqlDocumentRepository(SqlAuditTrail, DocumentRepository):
    """A DocumentRepository of one kind over one session."""

    def __init__(self, session: AsyncSession, kind: str) -> None:
        super().__init__(session)
        self._kind = kind

    async def next_revision(self) -> int:
        return int((await self._session.execute(NEXT_REVISION, {"kind": self._kind})).scalar_one())

    async def revision(self) -> int:
        query = select(DocumentRevisionRow.revision).where(DocumentRevisionRow.kind == self._kind)
        return await self._session.scalar(query) or 0

    async def get(self, key: DocumentKey) -> StoredDocument | None:
        return await DOCUMENTS.first(self._session, self._query().where(KEY.in_([key])))

    async def several(self, keys: Sequence[DocumentKey]) -> Mapping[DocumentKey, StoredDocument]:
        return {each.key: each for each in await DOCUMENTS.all(self._session, self._query().where(KEY.in_(keys)))}

    async def put(self, *stored: StoredDocument) -> None:
        await self._remove([each.key for each in stored])
        await DOCUMENTS.insert(self._session, *stored, kind=self._kind)

    async def delete(self, key: DocumentKey) -> None:
        await self._remove([key])
        revision = await self.revision()
        row = DocumentDeletionRow
        values = {"kind": self._kind, "version": revision, "namespace": key.namespace, "name": key.name}
        await self._session.execute(insert(row).values(values))
        old = delete(row).where(row.kind == self._kind, row.version <= revision - REVISIONS_KEPT)
        await self._session.execute(old)

    async def _remove(self, keys: Sequence[DocumentKey]) -> None:
        await self._session.execute(delete(DocumentRow).where(DocumentRow.kind == self._kind, KEY.in_(keys)))

    async def count(self) -> int:
        query = select(func.count()).select_from(DocumentRow).where(DocumentRow.kind == self._kind)
        return await self._session.scalar(query) or 0

    async def all(self) -> Sequence[StoredDocument]:
        return await self.changed(0)

    async def changed(self, since: int) -> Sequence[StoredDocument]:
        query = self._query().where(DocumentRow.version > since)
        query = query.order_by(DocumentRow.version, DocumentRow.namespace, DocumentRow.name).limit(ROWS_AT_ONCE)
        found: list[StoredDocument] = []
        piece = await DOCUMENTS.all(self._session, query)
        while piece:
            found += piece
            last = piece[-1]
            after = query.where((last.version, last.namespace, last.name) < PLACE)
            piece = await DOCUMENTS.all(self._session, after) if len(piece) == ROWS_AT_ONCE else ()
        return found

    async def deleted(self, since: int) -> Sequence[DocumentKey]:
        row = DocumentDeletionRow
        query = select(row.namespace, row.name).where(row.kind == self._kind, row.version > since)
        return [DocumentKey(*each) for each in await self._session.execute(query)]

    async def page(self, after: DocumentKey | None, limit: int, namespace: str | None) -> Sequence[StoredDocument]:
        query = self._query().order_by(DocumentRow.namespace, DocumentRow.name).limit(limit)
        if after is not None:
            query = query.where(after < KEY)
        if namespace is not None:
            query = query.where(DocumentRow.namespace == namespace)
        return await DOCUMENTS.all(self._session, query)

    def _query(self) -> Select[Any]:
        return DOCUMENTS.select().where(DocumentRow.kind == self._kind)
