"""What the use cases have in common whose documents are for some workloads: `rules.scoped` is their index."""

from collections.abc import Callable
from typing import TypeVar

from app.authz.model import Cause, Verdict
from app.authz.rules.scoped import ScopedDocument, ScopedDocuments
from app.core.decision import Decision, Outcome
from app.core.offload import Offload
from app.documents.store import Compiler, Difference

Document = TypeVar("Document", bound=ScopedDocument)
Made = TypeVar("Made")


def scoped_compiler(
    root: str, make: Callable[[tuple[Document, ...]], Made], offload: Offload
) -> Compiler[Document, Document, ScopedDocuments[Document, Made]]:
    """Return what indexes documents as they are; `make` makes of those for one workload what it is asked for."""

    def update(
        before: ScopedDocuments[Document, Made] | None, difference: Difference[Document]
    ) -> ScopedDocuments[Document, Made]:
        if before is None:
            return ScopedDocuments(difference.added.values(), root, make)
        return before.changed(difference.removed.values(), difference.added.values())

    return Compiler(_as_is, update, offload)


def not_loaded(documents: str) -> Verdict:
    """Return the denial of a request before the documents, which are named in the plural, were first read."""
    return Verdict(Decision(Outcome.DENY, f"the {documents} are not loaded yet"), Cause.ERROR)


def unknown_labels(documents: str) -> Verdict:
    """Return the denial of a request where it depends on the workload's labels which of the documents apply."""
    reason = (
        f"the destination workload's labels are missing, and {documents} select by labels: "
        "the check has neither destination.labels nor meshward.labels"
    )
    return Verdict(Decision(Outcome.DENY, reason), Cause.UNKNOWN_WORKLOAD)


def _as_is(document: Document) -> Document:
    return document
