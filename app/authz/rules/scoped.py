"""Documents by the workloads that they are for, with what is made of all that apply to one, kept for the next request.

For documents of which a workload has a few; `rules.index` is for policies, of which it may have thousands.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Generic, Protocol, TypeVar

from app.authz.model import Labels, Scope, Workload

# Workloads, by namespace and labels, for which something is kept; beyond that all are dropped and made again.
MAX_WORKLOADS = 4096

Made = TypeVar("Made")


class ScopedDocument(Protocol):
    """A document in a namespace that says which workloads it is for."""

    @property
    def namespace(self) -> str:
        """Its namespace."""
        ...

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """The workloads that it is for, each of which is in one of these."""
        ...


Document = TypeVar("Document", bound=ScopedDocument)


class ScopedDocuments(Generic[Document, Made]):
    """The documents of one kind. `make` makes of those for one workload, the root namespace's first, what is asked for.

    An index never changes in meaning; a change makes another one.
    """

    def __init__(self, documents: Iterable[Document], root: str, make: Callable[[tuple[Document, ...]], Made]) -> None:
        self._root, self._make = root, make
        self._namespaces: dict[str, dict[str, Document]] = {}
        for each in documents:
            self._namespaces.setdefault(each.namespace, {})[each.name] = each
        self._made: dict[tuple[str, Labels | None], Made | None] = {}
        self.is_empty = not any(self._namespaces.values())

    @property
    def documents(self) -> tuple[Document, ...]:
        """Every document."""
        return tuple(each for namespace in self._namespaces.values() for each in namespace.values())

    def changed(self, removed: Iterable[Document], added: Iterable[Document]) -> "ScopedDocuments[Document, Made]":
        """Return the index without `removed` and with `added`; this one stays as it is."""
        found = {(each.namespace, each.name): each for each in self.documents}
        for each in removed:
            del found[each.namespace, each.name]
        for each in added:
            found[each.namespace, each.name] = each
        return ScopedDocuments(found.values(), self._root, self._make)

    def made_for(self, workload: Workload | None) -> Made | None:
        """Return what was made of the documents for `workload`, of a missing one those of the root namespace.

        None if it depends on its labels, and they are missing.
        """
        key = (self._root, ()) if workload is None else (workload.namespace, workload.labels)
        if key not in self._made:
            if len(self._made) >= MAX_WORKLOADS:
                self._made.clear()
            self._made[key] = self._made_for(*key)
        return self._made[key]

    def _made_for(self, namespace: str, labels: Labels | None) -> Made | None:
        pairs = None if labels is None else frozenset(labels)
        found: list[Document] = []
        for place in dict.fromkeys((self._root, namespace)):
            by_name: Mapping[str, Document] = self._namespaces.get(place, {})
            for _, each in sorted(by_name.items()):
                scopes = [scope for scope in each.scopes if place == namespace or not scope.local]
                if pairs is None and any(scope.labels for scope in scopes):
                    return None
                if any((pairs or frozenset()).issuperset(scope.labels) for scope in scopes):
                    found.append(each)
        return self._make(tuple(found))
