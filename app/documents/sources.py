"""The places that documents come from: the database, where they can be changed, and a directory, where they cannot."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from app.core.bounded_files import bounded, read_regular
from app.core.clock import Clock
from app.core.errors import InvalidInputError, MeshwardError, PreconditionError, UnavailableError, Violation
from app.core.json_text import JsonText
from app.core.offload import Offload, in_thread
from app.documents.kind import DocumentKind
from app.documents.model import DocumentKey, StoredDocument
from app.documents.parser import MAX_TEXT_BYTES, parse_documents
from app.documents.ports import REVISIONS_KEPT, DocumentTransactions
from app.documents.reader import violations_in

SUFFIXES = frozenset({".yaml", ".yml", ".json"})
# What a directory may hold; all of it is read once a second.
MAX_FILES = 1000
MAX_DIRECTORY_BYTES = 4 * MAX_TEXT_BYTES
# How often files that change while they are read are read before the next refresh tries again.
MAX_ATTEMPTS = 4

Files = Mapping[str, bytes]
"""The content of each file by its name."""


class DatabaseSource:
    """A DocumentSource over the database: what is read is read in a transaction, too."""

    def __init__(self, transactions: DocumentTransactions) -> None:
        self.read = self.change = transactions


class DirectorySource:
    """A DocumentSource, read-only, over the YAML and JSON files of a directory; directories in it are not read.

    Whole contents are compared, so that any change is seen: a file written in place, renamed, or reached through a
    symbolic link that was swapped, as Kubernetes does it for a ConfigMap. While a file is not valid or cannot be read,
    what was read before stays. A directory without files is an error: a volume that is not mounted yet does not mean
    that there are no documents. Versions count from 1 in each process.
    """

    def __init__(self, kind: DocumentKind[Any], directory: Path, clock: Clock, offload: Offload = in_thread) -> None:
        self._kind, self._directory, self._clock, self._offload = kind, directory, clock, offload
        self._files: Files = {}
        self._problem: MeshwardError | None = None
        self._revision = 0
        self._documents: Mapping[DocumentKey, StoredDocument] = {}
        self._deleted: Mapping[DocumentKey, int] = {}

    @asynccontextmanager
    async def read(self) -> AsyncIterator["DirectorySource"]:
        """Open the documents as they were last read; `revision` reads the files again."""
        yield self

    def change(self) -> NoReturn:
        """Raise PreconditionError."""
        raise PreconditionError(f"{self._kind.plural} come from {self._directory}: change them there")

    async def revision(self) -> int:
        """Read the files, and return the number of the last change to them.

        Raises InvalidInputError naming file and field if one is not valid, UnavailableError if they cannot be read.
        """
        files = await asyncio.to_thread(_read, self._directory, self._files)
        if files != self._files:
            self._files, self._problem = files, None
            try:
                found = await self._parsed(files)
                self._revision += 1
                gone = dict.fromkeys(self._documents.keys() - found.keys(), self._revision)
                kept = {key: at for key, at in self._deleted.items() if at > self._revision - REVISIONS_KEPT}
                self._documents, self._deleted = found, kept | gone
            except MeshwardError as error:
                self._problem = error
        if self._problem is not None:
            raise self._problem.with_traceback(None)
        return self._revision

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

    async def _parsed(self, files: Files) -> Mapping[DocumentKey, StoredDocument]:
        job = partial(_parse, self._kind, self._directory, files)
        found = await self._offload(job, sum(map(len, files.values())))
        return {key: self._stored(key, document) for key, document in found}

    def _stored(self, key: DocumentKey, document: JsonText) -> StoredDocument:
        before = self._documents.get(key)
        if before is not None and before.document == document:
            return before
        return StoredDocument(*key, document, self._revision + 1, self._clock.now())


def _parse(kind: DocumentKind[Any], directory: Path, files: Files) -> Iterator[tuple[DocumentKey, JsonText]]:
    found: list[tuple[DocumentKey, JsonText]] = []
    places: dict[DocumentKey, str] = {}
    violations: list[Violation] = []
    for name, text in sorted(files.items()):
        try:
            documents = parse_documents(text)
            parsed = kind.parse(documents, stored=True, text=text) if documents else ()
        except InvalidInputError as error:
            violations += violations_in(name, error)
            continue
        for key, document in zip(map(kind.key_of, parsed), documents, strict=True):
            if key in places:
                violations.append(Violation(name, f"{kind.title(key)} is in {places[key]}, too"))
            places[key] = name
            found.append((key, JsonText.of(document)))
    if violations:
        summary = f"{kind.plural} in {directory} are not valid: {violations[0]}"
        raise InvalidInputError(summary, *violations)
    if len(found) > kind.max_documents:
        raise InvalidInputError(f"{directory} has more than {kind.max_documents} {kind.plural}")
    yield from found


def _read(directory: Path, known: Files) -> Files:
    """Return the files once two readings in a row, of which `known` is the first, found the same.

    One reading alone may have seen some files before a change and some after it.
    """
    for _ in range(MAX_ATTEMPTS):
        files = _read_once(directory)
        if files == known:
            return files
        known = files
    raise UnavailableError(f"the files in {directory} change while they are read")


def _read_once(directory: Path) -> Files:
    problem = f"{directory} has more than {MAX_FILES} files or {MAX_DIRECTORY_BYTES} bytes: put fewer documents into it"
    try:
        files = bounded(_files(directory), MAX_FILES, MAX_DIRECTORY_BYTES, problem)
    except OSError as error:
        raise UnavailableError(f"cannot read {error.filename or directory}: {error.strerror}") from error
    if not files:
        raise InvalidInputError(f"{directory} has no .yaml, .yml or .json file: add an empty one to have no documents")
    return files


def _files(directory: Path) -> Iterator[tuple[str, bytes]]:
    for path in directory.iterdir():
        if path.suffix in SUFFIXES and not path.name.startswith("."):
            # A byte more than the parser takes, so that it refuses what is longer.
            yield path.name, read_regular(path, MAX_TEXT_BYTES + 1)
