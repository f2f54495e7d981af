"""Where the documents of one kind come from, as Protocols."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from app.audit.ports import AuditTrail
from app.documents.model import DocumentKey, StoredDocument


class DocumentReader(Protocol):
    """The documents of one kind as of one moment."""

    async def revision(self) -> int:
        """Return the number of the last change, 0 if there was none."""

    async def get(self, key: DocumentKey) -> StoredDocument | None:
        """Return the document, None if there is none."""

    async def all(self) -> Sequence[StoredDocument]:
        """Return every document."""

    async def page(self, after: DocumentKey | None, limit: int, namespace: str | None) -> Sequence[StoredDocument]:
        """Return up to `limit` documents after the key `after`, in the order of keys; of one namespace if given."""


class DocumentRepository(DocumentReader, AuditTrail, Protocol):
    """The stored documents of one kind, within one transaction."""

    async def next_revision(self) -> int:
        """Return the number of the change that this transaction makes; other writers wait until it ends."""

    async def put(self, stored: StoredDocument) -> None:
        """Store the document in place of the one with its key."""

    async def delete(self, key: DocumentKey) -> None:
        """Remove the document."""

    async def count(self) -> int:
        """Return how many documents there are."""


DocumentTransactions = Callable[[], AbstractAsyncContextManager[DocumentRepository]]


class DocumentSource(Protocol):
    """Where the documents of one kind come from, and whether they can be changed there."""

    def read(self) -> AbstractAsyncContextManager[DocumentReader]:
        """Open the documents for reading. What is read raises UnavailableError if they cannot be reached."""

    def change(self) -> AbstractAsyncContextManager[DocumentRepository]:
        """Open a transaction that changes them. Raises PreconditionError if they cannot be changed through Meshward."""
