"""The documents of the database, and beside them a file that has the last good ones for a start without it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from typing import Any, NoReturn

from app.core.errors import UnavailableError
from app.core.json_text import JsonText
from app.core.last_good import LastGoodFile
from app.documents.kind import DocumentKind
from app.documents.model import DocumentKey, StoredDocument
from app.documents.ports import DocumentReader, DocumentRepository, DocumentSource

# The revision and the versions of what comes from the file: none of the database's, so that all of it is read and
# compiled again once the database is back.
KEPT_REVISION = -1


class KeptSource:
    """A DocumentSource: the database, or, from `restore` to `use_database`, what the file has."""

    def __init__(self, kind: DocumentKind[Any], database: DocumentSource, file: LastGoodFile) -> None:
        self.kind, self._database, self._file = kind, database, file
        self._kept: _KeptReader | None = None
        self._saved: int | None = None

    def read(self) -> AbstractAsyncContextManager[DocumentReader]:
        """Open the documents for reading. What is read raises UnavailableError if they cannot be reached."""
        return self._database.read() if self._kept is None else _opened(self._kept)

    def change(self) -> AbstractAsyncContextManager[DocumentRepository]:
        """Open a transaction of the database."""
        return self._database.change()

    async def restore(self) -> None:
        """Read the file, and have its documents read from now on.

        Raises NotFoundError if there is none, PreconditionError if it is refused.
        """
        self._kept = _KeptReader(self.kind, await asyncio.to_thread(self._file.read, _documents_of))

    def use_database(self) -> None:
        """Have the documents read from the database from now on."""
        self._kept = None

    async def save(self, active: int) -> None:
        """Keep the documents of the revision `active`, whose documents are all valid, unless they are kept already.

        If the database has another one by now, nothing is kept yet. Raises UnavailableError if it cannot be reached or
        there is no room for the file, PreconditionError if the file cannot be written for another reason.
        """
        if active in {self._saved, KEPT_REVISION}:
            return
        async with self._database.read() as reader:
            before, documents = await reader.revision(), await reader.all()
            if not before == await reader.revision() == active:
                return
        await asyncio.to_thread(lambda: self._file.write([_item_of(each) for each in documents]))
        self._saved = active


class _KeptReader:
    """A DocumentReader for the store alone: whoever lists documents must not take them for what is stored."""

    def __init__(self, kind: DocumentKind[Any], documents: Sequence[StoredDocument]) -> None:
        self._kind, self._documents = kind, documents

    async def revision(self) -> int:
        return KEPT_REVISION

    async def all(self) -> Sequence[StoredDocument]:
        return self._documents

    async def get(self, _key: DocumentKey) -> NoReturn:
        self._refuse()

    async def changed(self, _since: int) -> NoReturn:
        self._refuse()

    async def deleted(self, _since: int) -> NoReturn:
        self._refuse()

    async def count(self) -> NoReturn:
        self._refuse()

    async def page(self, _after: DocumentKey | None, _limit: int, _namespace: str | None) -> NoReturn:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise UnavailableError(f"the database is away; the {self._kind.plural} that are active are the last good ones")


@asynccontextmanager
async def _opened(reader: _KeptReader) -> AsyncIterator[_KeptReader]:
    yield reader


def _item_of(stored: StoredDocument) -> object:
    return [stored.namespace, stored.name, stored.updated_at.isoformat(), JsonText.of(stored.document).text]


def _documents_of(items: Sequence[Any]) -> list[StoredDocument]:
    return [
        StoredDocument(namespace, name, JsonText(text), KEPT_REVISION, datetime.fromisoformat(updated_at))
        for namespace, name, updated_at, text in items
    ]
