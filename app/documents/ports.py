"""Where the documents of one kind come from, as Protocols."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from app.audit.ports import AuditTrail
from app.documents.model import DocumentKey, StoredDocument

# Changes of which deletions are remembered: a replica that has not looked for longer reads every document.
REVISIONS_KEPT = 10_000


class DocumentReader(Protocol):
    """The documents of one kind as of one moment."""

    async def revision(self) -> int:
        """Return the number of the last change, 0 if there was none."""

    async def get(self, key: DocumentKey) -> StoredDocument | None:
        """Return the document, None if there is none."""

    async def all(self) -> Sequence[StoredDocument]:
        """Return every document."""

    async def changed(self, since: int) -> Sequence[StoredDocument]:
        """Return the documents that were written after the revision `since`."""
        ...

    async def deleted(self, since: int) -> Sequence[DocumentKey]:
        """Return the keys that were deleted after the revision `since`, which is no more than REVISIONS_KEPT ago.

        A document may have been written again afterwards.
        """
        ...

    async def count(self) -> int:
        """Return how many documents there are."""
        ...

    async def page(self, after: DocumentKey | None, limit: int, namespace: str | None) -> Sequence[StoredDocument]:
        """Return up to `limit` documents after the key `after`, in the order of keys; of one namespace if given."""


class DocumentRepository(DocumentReader, AuditTrail, Protocol):
    """The stored documents of one kind, within one transaction."""

    async def next_revision(self) -> int:
        """Return the number of the change that this transaction makes; other writers wait until it ends."""

    async def several(self, keys: Sequence[DocumentKey]) -> Mapping[DocumentKey, StoredDocument]:
        """Return those of the documents that there are."""

    async def put(self, *stored: StoredDocument) -> None:
        """Store documents, each in place of the one with its key."""

    async def delete(self, key: DocumentKey) -> None:
        """Remove the document."""


DocumentTransactions = Callable[[], AbstractAsyncContextManager[DocumentRepository]]


class DocumentSource(Protocol):
    """Where the documents of one kind come from, and whether they can be changed there."""

    def read(self) -> AbstractAsyncContextManager[DocumentReader]:
        """Open the documents for reading. What is read raises UnavailableError if they cannot be reached."""

    def change(self) -> AbstractAsyncContextManager[DocumentRepository]:
        """Open a transaction that changes them. Raises PreconditionError if they cannot be changed through Meshward."""
