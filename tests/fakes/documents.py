"""Documents in memory, and a kind of document to store in them."""

from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.core.errors import UnavailableError
from app.documents.kind import DocumentKind
from app.documents.model import DocumentKey, StoredDocument
from app.documents.reader import Reader
from app.documents.store import DocumentStore
from app.telemetry.metrics import Metrics


class MemoryDocuments:
    """A DocumentSource: a change is visible once its transaction has ended well.

    `away` makes every transaction fail as a database that is away does.
    """

    def __init__(self) -> None:
        self.documents: dict[DocumentKey, StoredDocument] = {}
        self.records = []
        self.revision = 0
        self.away = False
        self.reads = 0

    @asynccontextmanager
    async def change(self):
        if self.away:
            raise UnavailableError("the database is away")
        repository = _Repository(self)
        yield repository
        self.documents, self.revision = repository.documents, repository.number
        self.records += repository.records

    read = change


class _Repository:
    def __init__(self, source: MemoryDocuments) -> None:
        self.source = source
        self.documents = dict(source.documents)
        self.number = source.revision
        self.records = []

    async def next_revision(self):
        self.number += 1
        return self.number

    async def revision(self):
        return self.number

    async def get(self, key):
        return self.documents.get(key)

    async def put(self, stored):
        self.documents[stored.key] = stored

    async def delete(self, key):
        self.documents.pop(key, None)

    async def count(self):
        return len(self.documents)

    async def all(self):
        self.source.reads += 1
        return list(self.documents.values())

    async def page(self, after, limit, namespace):
        keys = [
            key
            for key in sorted(self.documents)
            if (after is None or key > after) and (namespace is None or key.namespace == namespace)
        ]
        return [self.documents[key] for key in keys[:limit]]

    async def record(self, record):
        self.records.append(record)


@dataclass(frozen=True)
class Note:
    namespace: str
    name: str
    text: str


def _read_note(reader: Reader) -> Note:
    found = Note(
        reader.required_text("namespace", 63), reader.required_text("name", 100), reader.required_text("text", 1000)
    )
    reader.close()
    return found


NOTES = DocumentKind(
    name="note",
    noun="note",
    plural="notes",
    key_field="name",
    read=_read_note,
    key_of=lambda note: DocumentKey(note.namespace, note.name),
    is_key=lambda key: key.name.isalnum(),
    max_documents=5,
    max_bytes=200,
)


def note_store(source, *, clock, compile_document=lambda found: found.text, metrics=None, changes=None):
    """A store of notes whose index has the compiled text by key; each snapshot is appended to `changes`."""
    return DocumentStore(
        NOTES,
        source,
        compile_document=compile_document,
        build_index=dict,
        on_change=([] if changes is None else changes).append,
        clock=clock,
        metrics=metrics or Metrics(),
    )


def texts(store):
    """The text of each active note by its name."""
    return {key.name: text for key, text in store.snapshot.index.items()}


def note(name="a", text="hello", namespace="home"):
    """A document of the kind NOTES."""
    return {"namespace": namespace, "name": name, "text": text}
