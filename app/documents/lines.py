"""Where in a text a field stands, by its path: looked up once something is wrong with it."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

from yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentEndEvent,
    Event,
    MappingStartEvent,
    ScalarEvent,
)

from app.core.errors import Violation
from app.documents.parser import events_of, shapes_of

# Of a path, what is looked up: the deepest that a document can have. A key can be longer, and full of dots.
MAX_PATH_LENGTH = 2048
MAX_PREFIXES = 256


@dataclass(slots=True)
class _Open:
    """A collection that is being read: its path, None if no path leads into it, and where its next value goes."""

    path: str | None
    is_mapping: bool
    key: str | None = None
    line: int = 0
    index: int = 0


def with_lines(text: bytes, violations: Sequence[Violation]) -> tuple[Violation, ...]:
    """Return violations of the documents in `text` with the line that each of them stands on.

    Paths begin with `documents[N]` where there are several documents. A field that is missing has the line of the
    mapping that lacks it, what comes from an alias or a merge key that of the nearest field that is written there.
    `text` has been parsed without a fault.
    """
    shapes = shapes_of(text)
    places: list[tuple[int, str]] = []
    for number, items in enumerate(shapes):
        places += [(number, item) for item in items]
    wanted = [_place_of(violation.path, places) for violation in violations]
    prefixes: dict[int, set[str]] = {}
    for number, path in wanted:
        prefixes.setdefault(number, set()).update(_prefixes(path))
    lines = _lines_of(text, prefixes)
    found = [
        next((lines[number, each] for each in _prefixes(path) if (number, each) in lines), None)
        for number, path in wanted
    ]
    return tuple(replace(violation, line=line) for violation, line in zip(violations, found, strict=True))


def _place_of(path: str, places: Sequence[tuple[int, str]]) -> tuple[int, str]:
    """Return the number of the YAML document that a violation is in, and the path inside that."""
    index = 0
    if len(places) > 1 and path.startswith("documents["):
        number, _, path = path.removeprefix("documents[").partition("]")
        index, path = int(number), path.removeprefix(".")
    document, item = places[index]
    return document, f"{item}.{path}" if item and path else item or path


def _prefixes(path: str) -> list[str]:
    """Return the path and those of what it is in, the longest first, the whole document, "", last."""
    path = path[:MAX_PATH_LENGTH]
    ends = [index for index, mark in enumerate(path) if mark in ".["][:MAX_PREFIXES]
    return [path, *[path[:end] for end in reversed(ends) if end], *([""] if path else [])]


def _lines_of(text: bytes, wanted: Mapping[int, AbstractSet[str]]) -> Mapping[tuple[int, str], int]:
    """Return the line of each wanted path that there is, by the number of its YAML document and the path."""
    found: dict[tuple[int, str], int] = {}
    lines: dict[str, int] = {}
    stack: list[_Open] = []
    number = 0
    for event in events_of(text):
        if isinstance(event, DocumentEndEvent):
            found |= {(number, path): line for path, line in lines.items()}
            number, lines = number + 1, {}
        elif number in wanted:
            _take(event, stack, wanted[number], lines)
    return found


def _take(event: Event, stack: list[_Open], wanted: AbstractSet[str], lines: dict[str, int]) -> None:
    if isinstance(event, CollectionEndEvent):
        stack.pop()
        return
    if not isinstance(event, (ScalarEvent, AliasEvent, CollectionStartEvent)):
        return
    mark: Any = event.start_mark
    line = mark.line + 1
    top = stack[-1] if stack else None
    if top is not None and top.is_mapping and top.key is None:
        top.key, top.line = getattr(event, "value", ""), line
        return
    path = _next_path(top)
    if path is not None and path in wanted:
        lines.setdefault(path, top.line if top and top.is_mapping else line)
    else:
        path = None
    if top is not None:
        top.key, top.index = None, top.index + 1
    if isinstance(event, CollectionStartEvent):
        stack.append(_Open(path, isinstance(event, MappingStartEvent)))


def _next_path(top: _Open | None) -> str | None:
    """Return the path of the next value of a collection, None if no path leads into it."""
    if top is None:
        return ""
    if top.path is None:
        return None
    if not top.is_mapping:
        return f"{top.path}[{top.index}]"
    return f"{top.path}.{top.key}" if top.path else top.key
