"""Documents become what decisions are made by. Nothing here knows where that is done, and all can be pickled."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Generic, TypeVar

from app.core.errors import InternalError, InvalidInputError, Violation
from app.core.json_text import JsonText
from app.documents.kind import DocumentKind, Parsed
from app.documents.model import StoredDocument
from app.documents.parser import parse_documents

# Two documents with one digest would need 2^64 attempts.
_DIGEST_BYTES = 16

Compiled = TypeVar("Compiled")
Given = bytes | Sequence[Mapping[str, object]]
"""Documents as a caller gave them: their text, or parsed."""


@dataclass(frozen=True, slots=True)
class Ready(Generic[Parsed, Compiled]):
    """A document that was given, what it describes, and that compiled; None where the digest was known already."""

    document: JsonText
    digest: bytes
    parsed: Parsed
    compiled: Compiled | None


@dataclass(frozen=True, slots=True)
class ActiveDocument(Generic[Parsed, Compiled]):
    """A document that decisions are made by: its version, what it describes, and that compiled.

    `digest` is equal for equal documents, in whatever order their fields are.
    """

    version: int
    parsed: Parsed
    compiled: Compiled
    digest: bytes


def size_of(given: Given) -> int:
    """Return how much text it is."""
    return len(given) if isinstance(given, bytes) else 0


def read_given(
    kind: DocumentKind[Parsed],
    compile_document: Callable[[Parsed], Compiled],
    known: AbstractSet[bytes],
    given: Given,
    *,
    one: bool = False,
) -> Iterator[Ready[Parsed, Compiled]]:
    """Yield each of the documents, compiled unless its digest is `known`.

    Raises InvalidInputError, before the first, with all that is wrong, and if `one` is wanted and there are others.
    """
    documents = _documents(given)
    if one and len(documents) != 1:
        raise InvalidInputError(
            f"the body has {len(documents)} documents: send one", Violation("", "must be one document")
        )
    for parsed, document in zip(kind.parse(documents, text=_text(given)), documents, strict=True):
        digest = _digest(document)
        yield Ready(JsonText.of(document), digest, parsed, None if digest in known else compile_document(parsed))


def describe_given(kind: DocumentKind[Parsed], show: Callable[[Parsed], Any], given: Given) -> Iterator[Any]:
    """Yield what `show` returns for each of the documents. Raises InvalidInputError, before the first."""
    yield from map(show, kind.parse(_documents(given), text=_text(given)))


def read_stored(
    kind: DocumentKind[Parsed], compile_document: Callable[[Parsed], Compiled], stored: Sequence[StoredDocument]
) -> Iterator[ActiveDocument[Parsed, Compiled]]:
    """Yield each of the documents. Raises InternalError naming one that is not valid."""
    for each in stored:
        try:
            document = JsonText.of(each.document).value()
            (parsed,) = kind.parse([document], stored=True)
        except (InvalidInputError, ValueError, RecursionError) as error:
            violations = error.violations if isinstance(error, InvalidInputError) else (Violation("", str(error)),)
            problem = f"the stored {kind.title(each.key)} is not valid"
            raise InternalError(f"{problem}: apply it again or delete it", *violations) from error
        yield ActiveDocument(each.version, parsed, compile_document(parsed), _digest(document))


def _documents(given: Given) -> Sequence[Mapping[str, object]]:
    return parse_documents(given) if isinstance(given, bytes) else given


def _text(given: Given) -> bytes | None:
    return given if isinstance(given, bytes) else None


def _digest(document: Mapping[str, object]) -> bytes:
    return blake2b(json.dumps(document, sort_keys=True).encode(), digest_size=_DIGEST_BYTES).digest()
