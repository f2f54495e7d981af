"""The values of versioned documents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import NamedTuple

from app.core.errors import Violation
from app.core.json_text import JsonText

# Kubernetes' bound on a namespace, and the longest name of any kind: an index on PostgreSQL holds both in UTF-8.
MAX_NAMESPACE_LENGTH = 63
MAX_NAME_LENGTH = 512


class DocumentKey(NamedTuple):
    """What identifies a document among those of its kind; `namespace` is empty for a kind that has none."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document as it was given.

    `version` is the revision of the change that wrote it, out of one sequence for all documents of the kind, so that a
    document that was deleted and created again never has a version twice.
    """

    namespace: str
    name: str
    document: Mapping[str, object]
    version: int
    updated_at: datetime

    @property
    def key(self) -> DocumentKey:
        """What identifies the document."""
        return DocumentKey(self.namespace, self.name)

    @property
    def size(self) -> int:
        """The length of the document as JSON."""
        return len(JsonText.of(self.document).text)


class Change(Enum):
    """What applying a document did."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class Applied:
    """A document as it is stored now, what applying it did, and what whoever applied it should know about it."""

    stored: StoredDocument
    change: Change
    warnings: Sequence[Violation] = ()
