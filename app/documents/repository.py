"""The queries of versioned documents. Nothing here commits; `DocumentRepository` in `ports.py` has the docstrings."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, delete, func, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from app.audit.repository import SqlAuditTrail
from app.db.rows import Rows
from app.documents.model import DocumentKey, StoredDocument
from app.documents.ports import DocumentRepository
from app.documents.tables import DocumentRevisionRow, DocumentRow

DOCUMENTS = Rows(DocumentRow, StoredDocument)
KEY = tuple_(DocumentRow.namespace, DocumentRow.name)
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

    async def put(self, stored: StoredDocument) -> None:
        await self.delete(stored.key)
        await DOCUMENTS.insert(self._session, stored, kind=self._kind)

    async def delete(self, key: DocumentKey) -> None:
        await self._session.execute(delete(DocumentRow).where(DocumentRow.kind == self._kind, KEY.in_([key])))

    async def count(self) -> int:
        query = select(func.count()).select_from(DocumentRow).where(DocumentRow.kind == self._kind)
        return await self._session.scalar(query) or 0

    async def all(self) -> Sequence[StoredDocument]:
        return await DOCUMENTS.all(self._session, self._query())

    async def page(self, after: DocumentKey | None, limit: int, namespace: str | None) -> Sequence[StoredDocument]:
        query = self._query().order_by(DocumentRow.namespace, DocumentRow.name).limit(limit)
        if after is not None:
            query = query.where(after < KEY)
        if namespace is not None:
            query = query.where(DocumentRow.namespace == namespace)
        return await DOCUMENTS.all(self._session, query)

    def _query(self) -> Select[Any]:
        return DOCUMENTS.select().where(DocumentRow.kind == self._kind)
