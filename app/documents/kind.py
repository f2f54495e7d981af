"""A kind of document: how its documents are read, what they are called, and how many there may be."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from app.core.errors import InvalidInputError, Violation
from app.documents.lines import with_lines
from app.documents.model import DocumentKey
from app.documents.reader import Problems, Reader

Parsed = TypeVar("Parsed")
Admit = Callable[[Parsed, str, Problems], None]


def _any(_parsed: object, _place: str, _problems: Problems) -> None:
    """Admit any document."""


def _no_warnings(_parsed: object) -> Sequence[Violation]:
    return ()


@dataclass(frozen=True, slots=True)
class DocumentKind(Generic[Parsed]):
    """One kind of document, as its feature describes it.

    `name` is its name in the database, in audit actions and in metrics; `noun` and `plural` are what messages call it.
    `read` returns what a document describes and adds every problem to the reader's; `key_of` its key, which is in
    the document at `key_field`; `is_key` whether a key can be one of this kind; `warnings_of` what whoever applies a
    valid document should know about it. `max_documents` is how many there may be, `max_bytes` how long one may be as
    JSON. `beside` are values of the field `kind` of documents that may be in the same directory, and are read there as
    those of other kinds. `admit` adds the problems that a document has which is given now, and that one which is stored
    already may have: what it refers to may be gone.
    """

    name: str
    noun: str
    plural: str
    key_field: str
    read: Callable[[Reader], Parsed]
    key_of: Callable[[Parsed], DocumentKey]
    is_key: Callable[[DocumentKey], bool]
    max_documents: int
    max_bytes: int
    warnings_of: Callable[[Parsed], Sequence[Violation]] = _no_warnings
    beside: frozenset[str] = frozenset()
    admit: Admit[Parsed] = _any

    def title(self, key: DocumentKey) -> str:
        """Return what messages call the document: `policy 'shop/no-admin'`."""
        return f"{self.noun} {str(key)!r}"

    def takes(self, document: Mapping[str, object]) -> bool:
        """Whether a document in a directory of several kinds may be one of this kind."""
        kind = document.get("kind")
        return not isinstance(kind, str) or kind not in self.beside

    def parse(
        self,
        documents: Sequence[Mapping[str, object]],
        *,
        stored: bool = False,
        text: bytes | None = None,
        takes: Callable[[Mapping[str, object]], bool] = lambda _: True,
    ) -> tuple[Parsed, ...]:
        """Return what `documents` describe, in their order.

        Raises InvalidInputError with every violation in all of the documents. A path starts at its document, with
        `documents[N].` before it if there are several. Two documents with one key are a violation, as are none
        at all. `stored`: the documents are not given now. With the `text` that they were parsed from each violation has
        its line. Of documents that it does not take nothing is looked at.
        """
        problems = Problems()
        found: dict[DocumentKey, Parsed] = {}
        for index, document in enumerate(documents):
            if not takes(document):
                continue
            place = f"documents[{index}]" if len(documents) > 1 else ""
            parsed = self._read(document, place, problems, stored=stored)
            if parsed is None:
                continue
            key = self.key_of(parsed)
            if key in found:
                problems.add(place, f"{self.title(key)} is in an earlier document, too")
            elif len(json.dumps(document)) > self.max_bytes:
                problems.add(place, f"{self.title(key)} is longer than {self.max_bytes} bytes: split it")
            found[key] = parsed
        if not documents:
            problems.add("", f"there is no document: send at least one {self.noun}")
        if problems.found:
            if text is not None and documents:
                problems.found[:] = with_lines(text, problems.found)
            raise InvalidInputError(f"{self.noun} is not valid: {problems.summary()}", *problems.found)
        return tuple(found.values())

    def _read(self, document: Mapping[str, object], place: str, problems: Problems, *, stored: bool) -> Parsed | None:
        """Return what the document describes; None, with the problems noted, if it is not valid."""
        before = len(problems.found)
        if not self.takes(document):
            problem = f"is {document['kind']}, and this is about {self.plural}: apply it as a document of its kind"
            problems.add(f"{place}.kind".removeprefix("."), problem)
            return None
        parsed = self.read(Reader(document, place, problems))
        if not stored and len(problems.found) == before:
            self.admit(parsed, place, problems)
        return parsed if len(problems.found) == before else None
