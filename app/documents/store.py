"""The use cases of versioned documents: keep those of one kind, and have them compiled and active."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, TypeVar

import structlog

from app.audit.model import AuditRecord, record_of
from app.core.clock import Clock
from app.core.errors import (
    ConflictError,
    InternalError,
    InvalidInputError,
    NotFoundError,
    ResourceExhaustedError,
    Violation,
)
from app.documents.kind import DocumentKind, Parsed
from app.documents.model import Applied, Change, DocumentKey, StoredDocument
from app.documents.ports import DocumentRepository, DocumentSource
from app.spiffe.principal import Principal
from app.telemetry.metrics import Metrics

Compiled = TypeVar("Compiled")
Index = TypeVar("Index")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ActiveDocument(Generic[Parsed, Compiled]):
    """A document that decisions are made by: its version, what it describes, and that compiled."""

    version: int
    parsed: Parsed
    compiled: Compiled


@dataclass(frozen=True, slots=True)
class Snapshot(Generic[Parsed, Compiled, Index]):
    """Every active document of one kind as of `revision`, and the index that the feature made of them."""

    revision: int
    documents: Mapping[DocumentKey, ActiveDocument[Parsed, Compiled]]
    index: Index


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
        *,
        compile_document: Callable[[Parsed], Compiled],
        build_index: Callable[[Mapping[DocumentKey, Compiled]], Index],
        on_change: Callable[[Snapshot[Parsed, Compiled, Index]], None],
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        """`on_change` is called with each snapshot once it is active."""
        self.kind, self._source, self._clock = kind, source, clock
        self._compile_document, self._build_index = compile_document, build_index
        self._on_change, self._loads = on_change, metrics.config_loads
        self._changing = asyncio.Lock()
        self.snapshot: Snapshot[Parsed, Compiled, Index] | None = None

    @property
    def loaded(self) -> bool:
        """Whether the documents have been read since the start, even if there are none."""
        return self.snapshot is not None

    async def refresh(self) -> bool:
        """Read every document if one was changed since, by this replica or elsewhere; return whether it was.

        All or nothing: if one is not valid, what was active stays active, and InternalError (InvalidInputError for one
        that is not in the database) names it. Raises UnavailableError if the source cannot be reached.
        """
        async with self._changing:
            try:
                async with self._source.read() as reader:
                    revision = await reader.revision()
                    if self.snapshot is not None and self.snapshot.revision == revision:
                        return False
                    stored = await reader.all()
                snapshot = await asyncio.to_thread(self._compile_all, revision, stored)
            except (InvalidInputError, InternalError):
                self._count("error")
                raise
            self._install(snapshot)
            return True

    async def validate(self, documents: Sequence[Mapping[str, object]]) -> tuple[Parsed, ...]:
        """Return what `documents` describe, and change nothing. Raises InvalidInputError with all that is wrong."""
        # In a thread: large documents take a good part of a second, in which decisions would wait.
        return await asyncio.to_thread(self.kind.parse, documents)

    async def apply(self, principal: Principal, documents: Sequence[Mapping[str, object]]) -> Sequence[Applied]:
        """Make every one of `documents` active, or none; return what became of each, in their order.

        Raises InvalidInputError with all that is wrong with them, ResourceExhaustedError if there would be too many,
        PreconditionError if they cannot be changed here, UnavailableError if the database cannot be reached. The change
        takes effect on the next decision.
        """
        parsed = await self._valid(documents)
        async with self._transaction(principal) as transaction:
            return [await transaction.put(each, document) for each, document in zip(parsed, documents, strict=True)]

    async def replace(
        self,
        principal: Principal,
        key: DocumentKey,
        document: Mapping[str, object],
        expected_version: int | None = None,
    ) -> Applied:
        """Make `document` active as the one with the key.

        With `expected_version` only if that is the version of what is stored. Raises as `apply` does, InvalidInputError
        if the document has another key, ConflictError if the version is another one.
        """
        (parsed,) = await self._valid([document])
        found = self.kind.key_of(parsed)
        if found != key:
            problem = Violation(self.kind.key_field, f"must be {str(key)!r}, as in the path")
            raise InvalidInputError(f"the document is {self.kind.title(found)}", problem)
        async with self._transaction(principal) as transaction:
            await transaction.expect(key, expected_version)
            return await transaction.put(parsed, document)

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

    async def _valid(self, documents: Sequence[Mapping[str, object]]) -> tuple[Parsed, ...]:
        try:
            return await self.validate(documents)
        except InvalidInputError:
            self._count("error")
            raise

    @asynccontextmanager
    async def _transaction(self, principal: Principal) -> AsyncIterator["_Transaction[Parsed]"]:
        """Open a transaction; what it wrote is active once it has committed."""
        async with self._changing:
            async with self._source.change() as repository:
                # The revision is taken first: it makes other writers wait.
                revision = await repository.next_revision()
                transaction = _Transaction(self.kind, repository, principal, revision, self._clock.now())
                yield transaction
                if transaction.written and await repository.count() > self.kind.max_documents:
                    problem = f"there would be more than {self.kind.max_documents} {self.kind.plural}"
                    raise ResourceExhaustedError(f"{problem}: delete some first")
                snapshot = await self._snapshot_after(transaction)
            self._install(snapshot)
        for record in transaction.records:
            _log.info("document_changed", action=record.action, document=record.target, principal=record.principal)

    async def _snapshot_after(self, transaction: "_Transaction[Parsed]") -> Snapshot[Parsed, Compiled, Index]:
        active = self.snapshot
        if active is None or active.revision != transaction.revision - 1:  # another replica made a change in between
            return await asyncio.to_thread(self._compile_all, transaction.revision, await transaction.repository.all())
        kept = {key: document for key, document in active.documents.items() if key != transaction.deleted}
        written = [(transaction.revision, parsed) for parsed in transaction.written]
        return await asyncio.to_thread(self._compile, transaction.revision, kept, written)

    def _compile_all(self, revision: int, stored: Sequence[StoredDocument]) -> Snapshot[Parsed, Compiled, Index]:
        active = self.snapshot.documents if self.snapshot else {}
        versions = {each.key: each.version for each in stored}
        kept = {key: document for key, document in active.items() if versions.get(key) == document.version}
        changed = ((each.version, self._parse(each)) for each in stored if each.key not in kept)
        return self._compile(revision, kept, changed)

    def _parse(self, stored: StoredDocument) -> Parsed:
        try:
            return self.kind.parse([stored.document])[0]
        except InvalidInputError as error:
            problem = f"the stored {self.kind.title(stored.key)} is not valid"
            raise InternalError(f"{problem}: apply it again or delete it", *error.violations) from error

    def _compile(
        self,
        revision: int,
        kept: Mapping[DocumentKey, ActiveDocument[Parsed, Compiled]],
        changed: Iterable[tuple[int, Parsed]],
    ) -> Snapshot[Parsed, Compiled, Index]:
        documents = dict(kept)
        for version, parsed in changed:
            documents[self.kind.key_of(parsed)] = ActiveDocument(version, parsed, self._compile_document(parsed))
        index = self._build_index({key: document.compiled for key, document in documents.items()})
        return Snapshot(revision, documents, index)

    def _install(self, snapshot: Snapshot[Parsed, Compiled, Index]) -> None:
        self.snapshot = snapshot
        self._count("success")
        self._on_change(snapshot)

    def _count(self, result: str) -> None:
        self._loads.add((self.kind.name, result))


@dataclass(slots=True)
class _Transaction(Generic[Parsed]):
    """One change of the stored documents, under one revision: what it writes it also records in the audit log."""

    kind: DocumentKind[Parsed]
    repository: DocumentRepository
    principal: Principal
    revision: int
    now: datetime
    written: list[Parsed] = field(default_factory=list)
    deleted: DocumentKey | None = None
    records: list[AuditRecord] = field(default_factory=list)

    async def expect(self, key: DocumentKey, version: int | None) -> None:
        """Raise ConflictError unless what is stored has the version; None accepts any."""
        if version is None:
            return
        stored = await self.repository.get(key)
        if stored is None or stored.version != version:
            raise ConflictError(f"{self.kind.title(key)} was changed since it was read: read it again")

    async def put(self, parsed: Parsed, document: Mapping[str, object]) -> Applied:
        """Store the document, unless it is what is stored already."""
        key = self.kind.key_of(parsed)
        before = await self.repository.get(key)
        if before is not None and before.document == document:
            return Applied(before, Change.UNCHANGED)
        stored = StoredDocument(*key, document, self.revision, self.now)
        await self.repository.put(stored)
        await self._record("apply", key, before.document if before else None, document)
        self.written.append(parsed)
        return Applied(stored, Change.UPDATED if before else Change.CREATED)

    async def delete(self, stored: StoredDocument) -> None:
        """Remove the document."""
        await self.repository.delete(stored.key)
        await self._record("delete", stored.key, stored.document, None)
        self.deleted = stored.key

    async def _record(
        self, verb: str, key: DocumentKey, before: Mapping[str, object] | None, after: Mapping[str, object] | None
    ) -> None:
        action = f"{self.kind.name}.{verb}"
        record = record_of(self.principal, self.now, action, str(key), before=before, after=after)
        await self.repository.record(record)
        self.records.append(record)
