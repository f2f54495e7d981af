"""The places that documents come from: the database, where they can be changed, and a directory, where they cannot."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, NoReturn

from app.core.bounded_files import bounded, read_regular
from app.core.clock import Clock
from app.core.errors import InvalidInputError, MeshwardError, PreconditionError, UnavailableError, Violation
from app.core.json_text import JsonText
from app.core.offload import Offload, in_thread
from app.documents.held import HeldDocuments, Merge, Placed, united
from app.documents.kind import DocumentKind
from app.documents.model import DocumentKey
from app.documents.parser import MAX_TEXT_BYTES, parse_documents
from app.documents.ports import DocumentTransactions
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


class DirectorySource(HeldDocuments):
    """A DocumentSource, read-only, over the YAML and JSON files of a directory; directories in it are not read.

    Whole contents are compared, so that any change is seen: a file written in place, renamed, or reached through a
    symbolic link that was swapped, as Kubernetes does it for a ConfigMap. While a file is not valid or cannot be read,
    what was read before stays. A directory without files is an error: a volume that is not mounted yet does not mean
    that there are no documents. Documents with one key are an error, unless `merge` makes one of them.
    """

    def __init__(
        self,
        kind: DocumentKind[Any],
        directory: Path,
        clock: Clock,
        offload: Offload = in_thread,
        merge: Merge | None = None,
    ) -> None:
        super().__init__(clock)
        self._kind, self._directory, self._offload, self._merge = kind, directory, offload, merge
        self._files: Files = {}
        self._problem: MeshwardError | None = None

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
                self.hold(await self._parsed(files))
            except MeshwardError as error:
                self._problem = error
        if self._problem is not None:
            raise self._problem.with_traceback(None)
        return self._revision

    async def _parsed(self, files: Files) -> Sequence[tuple[DocumentKey, JsonText]]:
        job = partial(_parse, self._kind, self._directory, files, self._merge)
        return await self._offload(job, sum(map(len, files.values())))


def _parse(
    kind: DocumentKind[Any], directory: Path, files: Files, merge: Merge | None
) -> Iterator[tuple[DocumentKey, JsonText]]:
    placed: list[Placed] = []
    violations: list[Violation] = []
    for name, text in sorted(files.items()):
        try:
            documents = parse_documents(text)
            parsed = kind.parse(documents, stored=True, text=text, takes=kind.takes) if documents else ()
        except InvalidInputError as error:
            violations += violations_in(name, error)
            continue
        placed += map(Placed, repeat(name), map(kind.key_of, parsed), filter(kind.takes, documents))
    found = united(kind, placed, merge, violations)
    if violations:
        summary = f"{kind.plural} in {directory} are not valid: {violations[0]}"
        raise InvalidInputError(summary, *violations)
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
