"""The use cases of versioned documents: keep those of one kind, and have them compiled and active."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Generic, TypeVar

import structlog

from app.audit.model import AuditRecord, record_of
from app.core.clock import Clock
from app.core.errors import (
    ConflictError,
    InternalError,
    InvalidInputError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
    Violation,
)
from app.core.offload import Offload, in_thread
from app.documents.compiling import (
    ActiveDocument,
    Compiled,
    Given,
    Ready,
    describe_given,
    read_given,
    read_stored,
    size_of,
)
from app.documents.kind import DocumentKind, Parsed
from app.documents.model import Applied, Change, DocumentKey, StoredDocument
from app.documents.ports import REVISIONS_KEPT, DocumentReader, DocumentRepository, DocumentSource
from app.spiffe.principal import Principal
from app.telemetry.metrics import Metrics

# Documents that are written in one statement, and freed in one step: neither holds the event loop.
DOCUMENTS_AT_ONCE = 50
# How often documents that change while they are read are read before the next refresh tries again.
MAX_ATTEMPTS = 4

Index = TypeVar("Index")
Active = Mapping[DocumentKey, ActiveDocument[Parsed, Compiled]]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Snapshot(Generic[Parsed, Compiled, Index]):
    """Every active document of one kind as of `revision`, and the index that the feature made of them.

    `known` are the digests of the documents.
    """

    revision: int
    documents: Active[Parsed, Compiled]
    index: Index
    known: AbstractSet[bytes]


@dataclass(frozen=True, slots=True)
class Difference(Generic[Compiled]):
    """What a change of documents removes and adds, compiled; a document that is replaced is in both."""

    removed: Mapping[DocumentKey, Compiled]
    added: Mapping[DocumentKey, Compiled]


@dataclass(frozen=True, slots=True)
class Compiler(Generic[Parsed, Compiled, Index]):
    """How a feature makes what it decides by.

    `update_index` returns the index after a change of the one before, which it leaves as it is. `offload` is where
    documents are read and compiled: `compile_document` and the kind may be sent there.
    """

    compile_document: Callable[[Parsed], Compiled]
    update_index: Callable[[Index | None, Difference[Compiled]], Index]
    offload: Offload = in_thread


@dataclass(frozen=True, slots=True)
class _Delta:
    """What is stored now and was not before: documents that were written, and keys that are gone."""

    written: Sequence[StoredDocument]
    gone: AbstractSet[DocumentKey]


class DocumentStore(Generic[Parsed, Compiled, Index]):
    """The documents of one kind.

    `snapshot` is what the last change or refresh made active, all of it valid; None until the documents were first
    read. It is replaced by one assignment, after the commit: a decision that takes the reference once is made by one
    set of documents.
    """

    def __init__(
        self,
        kind: DocumentKind[Parsed],
        source: DocumentSource,
        compiler: "Compiler[Parsed, Compiled, Index]",
        *,
        on_change: Callable[[Snapshot[Parsed, Compiled, Index]], Awaitable[object] | None],
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        """`on_change` is called with each snapshot once it is active; what it returns is awaited before the next."""
        self.kind, self._source, self._clock = kind, source, clock
        self._compile_document, self._update_index = compiler.compile_document, compiler.update_index
        self._on_change, self._loads = on_change, metrics.config_loads
        self._offload = compiler.offload
        self._changing = asyncio.Lock()
        self.snapshot: Snapshot[Parsed, Compiled, Index] | None = None

    @property
    def loaded(self) -> bool:
        """Whether the documents have been read since the start, even if there are none."""
        return self.snapshot is not None

    async def refresh(self) -> bool:
        """Read what was changed since, by this replica or elsewhere; return whether anything was.

        All or nothing: if one is not valid, what was active stays active, and InternalError (InvalidInputError for one
        that is not in the database) names it. Raises UnavailableError if the source cannot be reached.
        """
        async with self._changing:
            try:
                async with self._source.read() as reader:
                    revision = await reader.revision()
                    if self.snapshot is not None and self.snapshot.revision == revision:
                        return False
                    revision, delta = await self._settled_delta(reader, revision)
                await self._install(*await self._snapshot_of(revision, await self._compiled(delta.written), delta.gone))
            except (InvalidInputError, InternalError):
                self._count("error")
                raise
            return True

    async def validate(self, documents: Given, show: Callable[[Parsed], Any] = lambda parsed: parsed) -> list[Any]:
        """Return what `show` makes of each of the documents, and change nothing.

        Raises InvalidInputError with all that is wrong.
        """
        return await self._offload(partial(describe_given, self.kind, show, documents), size_of(documents))

    async def apply(self, principal: Principal, documents: Given) -> Sequence[Applied]:
        """Make every one of `documents` active, or none; return what became of each, in their order.

        Raises InvalidInputError with all that is wrong with them, ResourceExhaustedError if there would be too many,
        PreconditionError if they cannot be changed here, UnavailableError if the database cannot be reached. The change
        takes effect on the next decision.
        """
        ready = await self._ready(documents)
        async with self._transaction(principal) as transaction:
            return await transaction.put(ready)

    async def replace(
        self,
        principal: Principal,
        key: DocumentKey,
        document: bytes | Mapping[str, object],
        expected_version: int | None = None,
    ) -> Applied:
        """Make `document` active as the one with the key.

        With `expected_version` only if that is the version of what is stored. Raises as `apply` does, InvalidInputError
        if there is more than one document or it has another key, ConflictError if the version is another one.
        """
        (ready,) = await self._ready(document if isinstance(document, bytes) else [document], one=True)
        found = self.kind.key_of(ready.parsed)
        if found != key:
            problem = Violation(self.kind.key_field, f"must be {str(key)!r}, as in the path")
            raise InvalidInputError(f"the document is {self.kind.title(found)}", problem)
        async with self._transaction(principal) as transaction:
            await transaction.expect(key, expected_version)
            (applied,) = await transaction.put([ready])
            return applied

    async def delete(self, principal: Principal, key: DocumentKey, expected_version: int | None = None) -> None:
        """Delete the document, with `expected_version` only if that is the version of what is stored.

        Raises NotFoundError if there is none, ConflictError if the version is another one, PreconditionError if it
        cannot be changed here, UnavailableError if the database cannot be reached. The change takes effect on the next
        decision.
        """
        async with self._transaction(principal) as transaction:
            stored = self._found(key, await transaction.repository.get(key))
            await transaction.expect(key, expected_version)
            await transaction.delete(stored)

    async def get(self, key: DocumentKey) -> StoredDocument:
        """Return the document. Raises NotFoundError or UnavailableError."""
        async with self._source.read() as reader:
            return self._found(key, await reader.get(key))

    async def page(
        self, after: DocumentKey | None, limit: int, namespace: str | None = None
    ) -> Sequence[StoredDocument]:
        """Return up to `limit` documents after the key `after`, in the order of keys; of one namespace if given.

        Raises UnavailableError.
        """
        async with self._source.read() as reader:
            return await reader.page(after, limit, namespace)

    def _found(self, key: DocumentKey, stored: StoredDocument | None) -> StoredDocument:
        if stored is None:
            raise NotFoundError(f"there is no {self.kind.title(key)}")
        return stored

    async def _ready(self, documents: Given, *, one: bool = False) -> list[Ready[Parsed, Compiled]]:
        known = self.snapshot.known if self.snapshot else frozenset[bytes]()
        try:
            job = partial(read_given, self.kind, self._compile_document, known, documents, one=one)
            return await self._offload(job, size_of(documents))
        except InvalidInputError:
            self._count("error")
            raise

    @asynccontextmanager
    async def _transaction(self, principal: Principal) -> AsyncIterator["_Transaction[Parsed, Compiled]"]:
        """Open a transaction; what it wrote is active once it has committed."""
        async with self._changing:
            async with self._source.change() as repository:
                # The revision is taken first: it makes other writers wait.
                revision = await repository.next_revision()
                transaction = _Transaction[Parsed, Compiled](
                    self.kind, repository, principal, revision, self._clock.now()
                )
                yield transaction
                if transaction.written and await repository.count() > self.kind.max_documents:
                    problem = f"there would be more than {self.kind.max_documents} {self.kind.plural}"
                    raise ResourceExhaustedError(f"{problem}: delete some first")
                prepared = await self._snapshot_after(transaction)
            await self._install(*prepared)
        for record in transaction.records:
            _log.info("document_changed", action=record.action, document=record.target, principal=record.principal)

    async def _snapshot_after(
        self, transaction: "_Transaction[Parsed, Compiled]"
    ) -> tuple[Snapshot[Parsed, Compiled, Index], list[Any]]:
        revision, snapshot = transaction.revision, self.snapshot
        if snapshot is None or snapshot.revision != revision - 1:  # another replica made a change in between
            delta = await self._delta(transaction.repository, revision)
            return await self._snapshot_of(revision, await self._compiled(delta.written), delta.gone)
        found: dict[DocumentKey, ActiveDocument[Parsed, Compiled]] = {}
        again: list[StoredDocument] = []
        for ready, stored in transaction.written:
            active = snapshot.documents.get(stored.key)
            if ready.compiled is not None:
                found[stored.key] = ActiveDocument(revision, ready.parsed, ready.compiled, ready.digest)
            elif active is not None and active.digest == ready.digest:
                found[stored.key] = ActiveDocument(revision, active.parsed, active.compiled, active.digest)
            else:  # what was known when it was compiled has been changed since
                again.append(stored)
        gone = frozenset[DocumentKey]() if transaction.deleted is None else frozenset({transaction.deleted})
        return await self._snapshot_of(revision, {**found, **await self._compiled(again)}, gone)

    async def _settled_delta(self, reader: DocumentReader, revision: int) -> tuple[int, _Delta]:
        """Return the revision that was read whole, and what it changed: statements need not see the same moment."""
        for _ in range(MAX_ATTEMPTS):
            delta = await self._delta(reader, revision)
            read, revision = revision, await reader.revision()
            if read == revision:
                return revision, delta
        raise UnavailableError(f"{self.kind.plural} change while they are read: they are read again")

    async def _delta(self, reader: DocumentReader, revision: int) -> _Delta:
        snapshot = self.snapshot
        if snapshot is not None and 0 < revision - snapshot.revision <= REVISIONS_KEPT:
            written = await reader.changed(snapshot.revision)
            keys = frozenset(each.key for each in written)
            gone = frozenset(await reader.deleted(snapshot.revision)) - keys
            there = len(snapshot.documents.keys() | keys) - len(gone & snapshot.documents.keys())
            if there == await reader.count():
                return _Delta(written, gone)
            # Something was deleted without a trace, as by a version that left none.
        active = snapshot.documents if snapshot else {}
        stored = await reader.all()
        changed = [each for each in stored if each.key not in active or active[each.key].version != each.version]
        return _Delta(changed, active.keys() - {each.key for each in stored})

    async def _compiled(self, stored: Sequence[StoredDocument]) -> Active[Parsed, Compiled]:
        if not stored:
            return {}
        job = partial(read_stored, self.kind, self._compile_document, stored)
        size = sum(each.size for each in stored)
        return {self.kind.key_of(each.parsed): each for each in await self._offload(job, size)}

    async def _snapshot_of(
        self, revision: int, written: Active[Parsed, Compiled], gone: Iterable[DocumentKey]
    ) -> tuple[Snapshot[Parsed, Compiled, Index], list[Any]]:
        """Return the snapshot after a change, and the documents that it no longer has."""
        before = self.snapshot

        def make() -> Iterator[tuple[Snapshot[Parsed, Compiled, Index], list[Any]]]:
            documents = dict(before.documents) if before else {}
            removed = {key: documents.pop(key) for key in (*gone, *written) if key in documents}
            documents |= written
            difference = Difference(
                {key: document.compiled for key, document in removed.items()},
                {key: document.compiled for key, document in written.items()},
            )
            index = self._update_index(before.index if before else None, difference)
            known = frozenset(document.digest for document in documents.values())
            yield Snapshot(revision, documents, index, known), list(removed.values())

        (prepared,) = await in_thread(make)
        return prepared

    async def _install(self, snapshot: Snapshot[Parsed, Compiled, Index], removed: list[Any]) -> None:
        """Make the snapshot active, and free what it replaced step by step: it may be all there was."""
        self.snapshot = snapshot
        self._count("success")
        after = self._on_change(snapshot)
        if after is not None:
            await after
        while removed:
            del removed[-DOCUMENTS_AT_ONCE:]
            await asyncio.sleep(0)

    def _count(self, result: str) -> None:
        self._loads.add((self.kind.name, result))


@dataclass(slots=True)
class _Transaction(Generic[Parsed, Compiled]):
    """One change of the stored documents, under one revision: what it writes it also records in the audit log."""

    kind: DocumentKind[Parsed]
    repository: DocumentRepository
    principal: Principal
    revision: int
    now: datetime
    written: list[tuple[Ready[Parsed, Compiled], StoredDocument]] = field(default_factory=list)
    deleted: DocumentKey | None = None
    records: list[AuditRecord] = field(default_factory=list)

    async def expect(self, key: DocumentKey, version: int | None) -> None:
        """Raise ConflictError unless what is stored has the version; None accepts any."""
        if version is None:
            return
        stored = await self.repository.get(key)
        if stored is None or stored.version != version:
            raise ConflictError(f"{self.kind.title(key)} was changed since it was read: read it again")

    async def put(self, ready: Sequence[Ready[Parsed, Compiled]]) -> list[Applied]:
        """Store the documents, but for those that are what is stored already."""
        applied: list[Applied] = []
        for start in range(0, len(ready), DOCUMENTS_AT_ONCE):
            applied += await self._put(ready[start : start + DOCUMENTS_AT_ONCE])
        return applied

    async def _put(self, ready: Sequence[Ready[Parsed, Compiled]]) -> list[Applied]:
        keys = [self.kind.key_of(each.parsed) for each in ready]
        stored = await self.repository.several(keys)
        befores = [stored.get(key) for key in keys]
        # In a thread: documents that differ in their text are parsed to be compared.
        same = await asyncio.to_thread(_same, befores, ready)
        applied: list[Applied] = []
        for each, key, before, unchanged in zip(ready, keys, befores, same, strict=True):
            if before is not None and unchanged:
                applied.append(Applied(before, Change.UNCHANGED, self.kind.warnings_of(each.parsed)))
                continue
            found = StoredDocument(*key, each.document, self.revision, self.now)
            change = Change.UPDATED if before else Change.CREATED
            applied.append(Applied(found, change, self.kind.warnings_of(each.parsed)))
            self.written.append((each, found))
            self._note("apply", key, before.document if before else None, each.document)
        changed = [each.stored for each in applied if each.change is not Change.UNCHANGED]
        if changed:
            await self.repository.put(*changed)
            await self.repository.record(*self.records[-len(changed) :])
        return applied

    async def delete(self, stored: StoredDocument) -> None:
        """Remove the document."""
        await self.repository.delete(stored.key)
        self._note("delete", stored.key, stored.document, None)
        await self.repository.record(*self.records)
        self.deleted = stored.key

    def _note(
        self, verb: str, key: DocumentKey, before: Mapping[str, object] | None, after: Mapping[str, object] | None
    ) -> None:
        action = f"{self.kind.name}.{verb}"
        self.records.append(record_of(self.principal, self.now, action, str(key), before=before, after=after))


def _same(befores: Sequence[StoredDocument | None], ready: Sequence[Ready[Any, Any]]) -> list[bool]:
    return [
        before is not None and before.document == each.document for before, each in zip(befores, ready, strict=True)
    ]
