"""Documents in memory, and a kind of document to store in them."""

from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.core.errors import UnavailableError
from app.core.offload import in_thread
from app.documents.kind import DocumentKind
from app.documents.model import DocumentKey, StoredDocument
from app.documents.reader import Reader
from app.documents.store import Compiler, DocumentStore
from app.telemetry.metrics import Metrics


class MemoryDocuments:
    """A DocumentSource: a change is visible once its transaction has ended well.

    `away` makes every transaction fail as a database that is away does. `rows` are those that were read by refreshes;
    `during_reads` happens while changes are read.
    """

    def __init__(self) -> None:
        self.documents: dict[DocumentKey, StoredDocument] = {}
        self.records = []
        self.revision = 0
        self.away = False
        self.reads = 0
        self.rows = 0
        self.deletions = []
        self.during_reads = []

    @asynccontextmanager
    async def change(self):
        if self.away:
            raise UnavailableError("the database is away")
        at = MemoryDocuments()
        at.documents, at.deletions, at.revision = dict(self.documents), list(self.deletions), self.revision
        yield _Repository(self, at)
        self.documents, self.deletions, self.revision = at.documents, at.deletions, at.revision
        self.records += at.records

    @asynccontextmanager
    async def read(self):
        if self.away:
            raise UnavailableError("the database is away")
        # Each step sees the latest, as in a transaction of PostgreSQL.
        yield _Repository(self, self)


class _Repository:
    """Sees and changes what is `at` one moment; `source` counts what is read."""

    def __init__(self, source: MemoryDocuments, at: MemoryDocuments) -> None:
        self.source, self.at = source, at

    async def next_revision(self):
        self.at.revision += 1
        return self.at.revision

    async def revision(self):
        return self.at.revision

    async def get(self, key):
        return self.at.documents.get(key)

    async def several(self, keys):
        return {key: self.at.documents[key] for key in keys if key in self.at.documents}

    async def put(self, *stored):
        for each in stored:
            self.at.documents[each.key] = each

    async def delete(self, key):
        self.at.documents.pop(key, None)
        self.at.deletions.append((self.at.revision, key))

    async def changed(self, since):
        if self.source.during_reads:
            await self.source.during_reads.pop()()
        found = [each for each in self.at.documents.values() if each.version > since]
        self.source.rows += len(found)
        return found

    async def deleted(self, since):
        return [key for version, key in self.at.deletions if version > since]

    async def count(self):
        return len(self.at.documents)

    async def all(self):
        self.source.reads += 1
        self.source.rows += len(self.at.documents)
        return list(self.at.documents.values())

    async def page(self, after, limit, namespace):
        keys = [
            key
            for key in sorted(self.at.documents)
            if (after is None or key > after) and (namespace is None or key.namespace == namespace)
        ]
        return [self.at.documents[key] for key in keys[:limit]]

    async def record(self, *records):
        self.at.records += records


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


def _updated(before, difference):
    kept = {key: text for key, text in (before or {}).items() if key not in difference.removed}
    return kept | difference.added


def note_store(
    source, *, clock, compile_document=lambda found: found.text, metrics=None, changes=None, offload=in_thread
):
    """A store of notes whose index has the compiled text by key; each snapshot is appended to `changes`."""
    return DocumentStore(
        NOTES,
        source,
        Compiler(compile_document, _updated, offload),
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
