"""YAML and JSON documents as plain values: `dict`, `list`, `str`, `int`, `float`, `bool` and `None`, nothing else.

Scalars follow the JSON schema of YAML 1.2 (section 10.2) with the spellings of null of its core schema: `yes`, `True`,
dates, `0x1F`, `010` and `1_000` stay strings, so that what is written unquoted is what is meant, and the text of every
`int` and `bool` is known. Merge keys are those of YAML 1.1 (https://yaml.org/type/merge.html). JSON is read as the YAML
that it is.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    Event,
    MappingStartEvent,
    ScalarEvent,
)

from app.core.errors import InvalidInputError, Violation

# What one request or file may hold: thousands of policies, or 36,000 rate limits, and no more than two seconds' work.
MAX_TEXT_BYTES = 4 * 1024 * 1024
MAX_DOCUMENTS = 2_000
# Scalars and collections after aliases are expanded, and the characters in them: a small text cannot grow by them.
MAX_NODES = 400_000
MAX_EXPANDED_CHARACTERS = 2 * MAX_TEXT_BYTES
# Collections inside each other; rate limit descriptors, two levels each, are the deepest that people write. What shows
# documents in the admin API, pydantic, ends at 255.
MAX_DEPTH = 240
# Digits that an integer may have: more than 64 bits need, and no quadratic conversion.
MAX_NUMBER_LENGTH = 32

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where PyYAML was built with it: ten times faster

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {"true": True, "false": False}
_INTEGER = re.compile(r"0|-?[1-9][0-9]*")
_FLOAT = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_MERGE_KEY = "<<"
_TAG = "tag:yaml.org,2002:"
_SCALAR_TAGS = frozenset({None, "!", f"{_TAG}str"})
_MAPPING_TAGS = frozenset({None, "!", f"{_TAG}map"})
_SEQUENCE_TAGS = frozenset({None, "!", f"{_TAG}seq"})
_SURROGATE_PAIR = re.compile(r"(?<!\\)((?:\\\\)*)(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})")
_LIST_FIELDS = frozenset({"apiVersion", "kind", "metadata", "items"})


def parse_documents(text: bytes) -> tuple[dict[str, object], ...]:
    """Return the documents in `text`, UTF-8: YAML separated by `---`, or JSON.

    A JSON array, and a Kubernetes list (`kind: List` or `…List` with `items`), are the documents in them; empty
    documents are left out. Collections that aliases refer to are shared, so treat the values as read-only.

    Raises InvalidInputError, with line and column, for what is not well-formed, exceeds a bound of this module, has a
    key twice, a key that is not a string, a tag or a number that is not finite, or is not a mapping.
    """
    if len(text) > MAX_TEXT_BYTES:
        raise InvalidInputError(f"documents are longer than {MAX_TEXT_BYTES} bytes; send them in parts")
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise InvalidInputError(f"documents are not UTF-8: line {line} has a byte that does not belong") from error
    found: list[dict[str, object]] = []
    for line, value in _values(_without_surrogates(decoded)):
        found.extend(_flattened(value, line))
        if len(found) > MAX_DOCUMENTS:
            raise InvalidInputError(f"there are more than {MAX_DOCUMENTS} documents; send them in parts")
    return tuple(found)


def events_of(text: bytes) -> Iterator[Event]:
    """Yield the events of a text that `parse_documents` has read."""
    yield from yaml.parse(_without_surrogates(text.decode("utf-8-sig")), Loader=_LOADER)


def shapes_of(text: bytes) -> list[list[str]]:
    """Return, for each YAML document of a text that `parse_documents` has read, the paths of the documents in it."""
    shapes: list[list[str]] = []
    for line, value in _values(_without_surrogates(text.decode("utf-8-sig"))):
        count = len(list(_flattened(value, line)))
        if isinstance(value, list):
            shapes.append([f"[{index}]" for index in range(count)])
        elif isinstance(value, dict) and _items_of_list(value, line) is not None:
            shapes.append([f"items[{index}]" for index in range(count)])
        else:
            shapes.append([""] * count)
    return shapes


def _without_surrogates(text: str) -> str:
    """Return JSON with the character in place of each pair of escapes that spells it in UTF-16 (RFC 8259, section 7).

    YAML has no such pairs. In JSON a backslash occurs in double quotes only, so that nothing else is replaced.
    """
    if not _SURROGATE_PAIR.search(text):
        return text
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    return _SURROGATE_PAIR.sub(lambda found: found[1] + json.loads(f'"{found[2]}"'), text)


def _flattened(value: object, line: int) -> Iterator[dict[str, object]]:
    if value is None:
        return
    if isinstance(value, list):
        items: list[object] = value
    elif isinstance(value, dict):
        listed = _items_of_list(value, line)
        if listed is None:
            yield value
            return
        items = listed
    else:
        raise _refusal(line, None, "a document must be a mapping of fields, not a single value")
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise _refusal(line, None, f"item {index} of the list must be a mapping of fields")
        yield item


def _items_of_list(document: dict[str, object], line: int) -> list[object] | None:
    kind, items = document.get("kind"), document.get("items")
    if not isinstance(kind, str) or not kind.endswith("List") or not isinstance(items, list):
        return None
    for unknown in document.keys() - _LIST_FIELDS:
        raise _refusal(line, None, f"a {kind} has no field {unknown!r}")
    return items


def _values(text: str) -> Iterator[tuple[int, object]]:
    """Yield each document's first line, counted from 1, and its value."""
    builder = _Builder()
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            yield from builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise _refusal(mark.line + 1 if mark else 1, mark.column + 1 if mark else None, problem) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if error.position is not None else 1
        raise _refusal(line, None, f"{error.reason}: write it as an escape in double quotes") from error
    except yaml.YAMLError as error:
        raise InvalidInputError("documents cannot be read as YAML or JSON") from error


def _refusal(line: int, column: int | None, problem: str) -> InvalidInputError:
    place = f"line {line}" if column is None else f"line {line}, column {column}"
    return InvalidInputError(f"documents cannot be read: {place}: {problem}", Violation(place, problem))


def _refuse(event: Event, problem: str) -> InvalidInputError:
    return _refusal(*_place(event), problem)


def _place(event: Event) -> tuple[int, int]:
    """Return the line and the column where `event` starts, counted from 1."""
    mark: Any = event.start_mark
    return mark.line + 1, mark.column + 1


@dataclass(slots=True)
class _Size:
    """How large a value is with its aliases expanded."""

    nodes: int = 1
    characters: int = 0
    depth: int = 0

    def add(self, inner: "_Size") -> None:
        self.nodes += inner.nodes
        self.characters += inner.characters
        self.depth = max(self.depth, inner.depth + 1)


@dataclass(slots=True)
class _Open:
    """A collection that is being read, and how large it is so far.

    `key` is the key whose value comes next, a merge key if `is_merge`; `merged` are the mappings that those name.
    """

    value: dict[str, object] | list[object]
    anchor: str | None
    key: str | None = None
    is_merge: bool = False
    merged: list[dict[str, object]] = field(default_factory=list)
    size: _Size = field(default_factory=lambda: _Size(depth=1))


@dataclass(slots=True)
class _Builder:
    """Puts parser events together to values, with a stack of its own: depth costs no Python frames."""

    stack: list[_Open] = field(default_factory=list)
    anchors: dict[str, tuple[object, _Size]] = field(default_factory=dict)
    spent: _Size = field(default_factory=lambda: _Size(nodes=0))
    line: int = 1
    root: object = None

    def take(self, event: Event) -> Iterator[tuple[int, object]]:
        """Take one event; yields the document's first line and value when it ends."""
        if isinstance(event, ScalarEvent):
            self._scalar(event)
        elif isinstance(event, CollectionStartEvent):
            self._start(event)
        elif isinstance(event, CollectionEndEvent):
            closed = self.stack.pop()
            if isinstance(closed.value, dict):
                for source in closed.merged:
                    for key, value in source.items():
                        closed.value.setdefault(key, value)
            self._put(event, closed.value, closed.size, closed.anchor)
        elif isinstance(event, AliasEvent):
            self._alias(event)
        elif isinstance(event, DocumentStartEvent):
            self.line, self.root = _place(event)[0], None
            self.anchors.clear()
        elif isinstance(event, DocumentEndEvent):
            yield self.line, self.root

    def _scalar(self, event: ScalarEvent) -> None:
        text = event.value
        size = _Size(characters=len(text))
        self._spend(event, size)
        if self._wants_key():
            if event.anchor is not None:
                raise _refuse(event, "an anchor on a key is not supported")
            self._key(event)
        else:
            self._put(event, _scalar_value(event), size, event.anchor)

    def _key(self, event: ScalarEvent) -> None:
        top = self.stack[-1]
        key = _scalar_value(event)
        if type(key) is int and str(key) == event.value:
            key = event.value  # as Kubernetes reads it: keys of JSON are strings, and Istio's ports are keys
        if not isinstance(key, str):
            raise _refuse(event, f"key {event.value!r} must be a string: put it in quotes")
        is_merge = key == _MERGE_KEY and _is_plain(event)
        if top.merged if is_merge else key in top.value:
            raise _refuse(event, f"key {key!r} is here twice")
        top.key, top.is_merge = key, is_merge
        top.size.nodes += 1
        top.size.characters += len(key)

    def _start(self, event: CollectionStartEvent) -> None:
        if self._wants_key():
            raise _refuse(event, "a key must be a string, not a collection")
        is_mapping = isinstance(event, MappingStartEvent)
        if event.tag not in (_MAPPING_TAGS if is_mapping else _SEQUENCE_TAGS):
            raise _refuse(event, f"tag {event.tag!r} is not supported")
        if len(self.stack) >= MAX_DEPTH:
            raise _refuse(event, f"collections are nested deeper than {MAX_DEPTH}")
        self._spend(event, _Size())
        if event.anchor is not None:
            self.anchors.pop(event.anchor, None)  # an alias inside the collection would refer to the collection itself
        self.stack.append(_Open({} if is_mapping else [], event.anchor))

    def _alias(self, event: AliasEvent) -> None:
        if self._wants_key():
            raise _refuse(event, "a key must be written out, not be an alias")
        if event.anchor not in self.anchors:
            raise _refuse(event, f"alias *{event.anchor} refers to nothing that is complete before it")
        value, size = self.anchors[event.anchor]
        if len(self.stack) + size.depth > MAX_DEPTH:
            raise _refuse(event, f"collections are nested deeper than {MAX_DEPTH}")
        self._spend(event, size)
        self._put(event, value, size, None)

    def _put(self, event: Event, value: object, size: _Size, anchor: str | None) -> None:
        if anchor is not None:
            self.anchors[anchor] = value, size
        if not self.stack:
            self.root = value
            return
        top = self.stack[-1]
        if isinstance(top.value, list):
            top.value.append(value)
        elif top.key is None:  # the parser pairs keys and values; a value without a key is a fault of its own
            raise _refuse(event, "a value is where a key was expected")
        else:
            if top.is_merge:
                top.merged += _merge_sources(event, value)
            else:
                top.value[top.key] = value
            top.key = None
        top.size.add(size)

    def _wants_key(self) -> bool:
        return bool(self.stack) and isinstance(self.stack[-1].value, dict) and self.stack[-1].key is None

    def _spend(self, event: Event, size: _Size) -> None:
        self.spent.add(size)
        if self.spent.nodes > MAX_NODES:
            raise _refuse(event, f"there are more than {MAX_NODES} values, aliases expanded")
        if self.spent.characters > MAX_EXPANDED_CHARACTERS:
            raise _refuse(event, f"there are more than {MAX_EXPANDED_CHARACTERS} characters, aliases expanded")


def _merge_sources(event: Event, value: object) -> list[dict[str, object]]:
    """Return the mappings that a merge key with `value` names, each before those that it wins over."""
    sources = value if isinstance(value, list) else [value]
    mappings = [source for source in sources if isinstance(source, dict)]
    if len(mappings) < len(sources):
        raise _refuse(event, "a merge key needs a mapping or a list of mappings")
    return mappings


def _is_plain(event: ScalarEvent) -> bool:
    return not event.style and event.tag is None


def _scalar_value(event: ScalarEvent) -> object:
    text: str = event.value
    if event.tag not in _SCALAR_TAGS:
        raise _refuse(event, f"tag {event.tag!r} is not supported: write the value without it")
    if not _is_plain(event):
        return text
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    return _number_or_text(event, text)


def _number_or_text(event: ScalarEvent, text: str) -> object:
    if _NOT_FINITE.fullmatch(text):
        raise _refuse(event, f"number {text} is not finite")
    if not text[0].isdecimal() and text[0] != "-":
        return text
    is_integer = _INTEGER.fullmatch(text) is not None
    if not is_integer and not _FLOAT.fullmatch(text):
        return text
    if len(text) > MAX_NUMBER_LENGTH:
        raise _refuse(event, f"number is longer than {MAX_NUMBER_LENGTH} characters: put it in quotes if it is a text")
    if is_integer:
        return int(text)
    number = float(text)
    if not math.isfinite(number):
        raise _refuse(event, f"number {text} is not finite")
    return number
