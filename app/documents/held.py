"""Documents that a source holds in memory, read whole each time: what changed, and when."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from app.core.clock import Clock
from app.core.errors import InvalidInputError, Violation
from app.core.json_text import JsonText
from app.documents.kind import DocumentKind
from app.documents.model import DocumentKey, StoredDocument
from app.documents.ports import REVISIONS_KEPT
from app.documents.reader import violations_in

Merge = Callable[[Sequence[Mapping[str, object]]], Mapping[str, object]]
"""Returns the one document that several with the same key are together."""


class HeldDocuments:
    """The documents of one kind, read-only. Versions count from 1 in each process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._revision = 0
        self._documents: Mapping[DocumentKey, StoredDocument] = {}
        self._deleted: Mapping[DocumentKey, int] = {}

    def hold(self, found: Sequence[tuple[DocumentKey, JsonText]]) -> None:
        """Hold `found` in place of what was held: the next revision."""
        documents = {key: self._stored(key, document) for key, document in found}
        self._revision += 1
        gone = dict.fromkeys(self._documents.keys() - documents.keys(), self._revision)
        kept = {key: at for key, at in self._deleted.items() if at > self._revision - REVISIONS_KEPT}
        self._documents, self._deleted = documents, kept | gone

    async def get(self, key: DocumentKey) -> StoredDocument | None:
        """Return the document, None if there is none."""
        return self._documents.get(key)

    async def count(self) -> int:
        """Return how many documents there are."""
        return len(self._documents)

    async def changed(self, since: int) -> Sequence[StoredDocument]:
        """Return the documents that were written after the revision `since`."""
        return [each for each in self._documents.values() if each.version > since]

    async def deleted(self, since: int) -> Sequence[DocumentKey]:
        """Return the keys that were deleted after the revision `since`."""
        return [key for key, revision in self._deleted.items() if revision > since]

    async def all(self) -> Sequence[StoredDocument]:
        """Return every document."""
        return tuple(self._documents.values())

    async def page(self, after: DocumentKey | None, limit: int, namespace: str | None) -> Sequence[StoredDocument]:
        """Return up to `limit` documents after the key `after`, in the order of keys; of one namespace if given."""
        keys = [
            key
            for key in sorted(self._documents)
            if (after is None or key > after) and namespace in {None, key.namespace}
        ]
        return [self._documents[key] for key in keys[:limit]]

    def _stored(self, key: DocumentKey, document: JsonText) -> StoredDocument:
        before = self._documents.get(key)
        if before is not None and before.document == document:
            return before
        return StoredDocument(*key, document, self._revision + 1, self._clock.now())


class Placed(NamedTuple):
    """A document that is valid by itself, and what messages call the place that it is from."""

    place: str
    key: DocumentKey
    document: Mapping[str, object]


def united(
    kind: DocumentKind[Any], found: Sequence[Placed], merge: Merge | None, violations: list[Violation]
) -> list[tuple[DocumentKey, JsonText]]:
    """Return one document for each key. Without `merge` a key that is there twice is a violation.

    What is wrong with merged documents is one, too. Raises InvalidInputError if there are too many.
    """
    by_key: dict[DocumentKey, list[Placed]] = {}
    for each in found:
        by_key.setdefault(each.key, []).append(each)
    if len(by_key) > kind.max_documents:
        raise InvalidInputError(f"there are more than {kind.max_documents} {kind.plural}")
    documents: list[tuple[DocumentKey, JsonText]] = []
    for key, (first, *others) in by_key.items():
        document = first.document
        if merge is None:
            violations += [Violation(each.place, f"{kind.title(key)} is in {first.place}, too") for each in others]
        elif others:
            document = merge([each.document for each in (first, *others)])
            try:
                kind.parse([document], stored=True)
            except InvalidInputError as error:
                places = " and ".join(dict.fromkeys(each.place for each in (first, *others)))
                violations += violations_in(f"{places}, merged", error)
        documents.append((key, JsonText.of(document)))
    return documents
