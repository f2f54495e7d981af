"""Which parts of an input document a policy reads: a tree of names, down to what it reads whole."""

from collections.abc import Iterable, Mapping
from typing import Any

Parts = Mapping[str, Any]
"""By name, the parts of a part."""


class _Everything(dict[str, Any]):
    """Every part, and every part of it."""

    def __contains__(self, _name: object) -> bool:
        return True

    def __missing__(self, _name: str) -> Parts:
        return self

    def get(self, _name: str, _default: object = None) -> Any:
        return self


EVERYTHING: Parts = _Everything()


def parts_of(paths: Iterable[tuple[str, ...]]) -> Parts:
    """Return the tree of the paths; the last name of each is read whole."""
    tree: dict[str, Any] = {}
    for path in sorted(paths):
        if not path:
            return EVERYTHING
        at = tree
        for name in path[:-1]:
            at = at.setdefault(name, {})
            if at is EVERYTHING:
                break
        else:
            at[path[-1]] = EVERYTHING
    return tree


def selected(value: Any, parts: Parts) -> Any:
    """Return those parts of a value: of objects inside each other, and all of any other value."""
    if parts is EVERYTHING or not isinstance(value, dict):
        return value
    return {name: selected(value[name], inside) for name, inside in parts.items() if name in value}
