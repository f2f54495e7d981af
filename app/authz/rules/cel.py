"""Conditions of CUSTOM policies in the Common Expression Language, over Envoy's attributes.

Envoy's documentation, "Attributes": `request.path`, `source.principal` and so on have the names and types that they
have in Envoy's own CEL. One that a check does not have is missing: looking at it denies, unless `has()` is asked first.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.authz.model import CheckInput
from app.authz.providers import Answer
from app.authz.rules.parts import Parts, parts_of
from app.cel.program import Program
from app.cel.values import EvaluationError, ExhaustedError, name_of, timestamp_of
from app.core.errors import InvalidInputError

_ALLOWED = Answer()
_DENIED = Answer("its expression is false")
_HTTP = ("request", "http")
_SPIFFE = "spiffe://"

Check = Mapping[str, Any]
Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute: the parts of a check that it is read from, and how; None is a missing one."""

    read: Callable[[Check], Any]
    parts: tuple[Path, ...]


def _value_at(check: Check, path: Path) -> Any:
    found: Any = check
    for name in path:
        found = found.get(name)
        if found is None:
            return None
    return found


def _plain(*path: str) -> Attribute:
    return Attribute(lambda check: _value_at(check, path), (path,))


def _changed(path: Path, change: Callable[[Any], Any]) -> Attribute:
    def read(check: Check) -> Any:
        value = _value_at(check, path)
        return None if value is None else change(value)

    return Attribute(read, (path,))


def _address(at: Mapping[str, Any]) -> str:
    address: str = at["address"]
    return f"[{address}]:{at['portValue']}" if ":" in address else f"{address}:{at['portValue']}"


def _peer(name: str) -> dict[str, Attribute]:
    socket = (name, "address", "socketAddress")
    return {
        "address": _changed(socket, _address),
        "port": _changed(socket, lambda at: int(at["portValue"])),
        **{each: _plain(name, each) for each in ("principal", "service", "certificate", "labels")},
    }


_PROVEN = ("source", "principal"), ("source", "certificate")

ATTRIBUTES: dict[str, dict[str, Attribute]] = {
    "request": {
        **{name: _plain(*_HTTP, name) for name in ("method", "path", "host", "scheme", "protocol", "id", "body")},
        "headers": _plain(*_HTTP, "headers"),
        "url_path": _changed((*_HTTP, "path"), lambda path: path.partition("?")[0]),
        "query": _changed((*_HTTP, "path"), lambda path: path.partition("?")[2]),
        "size": _changed((*_HTTP, "size"), int),
        "referer": _plain(*_HTTP, "headers", "referer"),
        "useragent": _plain(*_HTTP, "headers", "user-agent"),
        "time": _changed(("request", "time"), timestamp_of),
    },
    "source": _peer("source"),
    "destination": _peer("destination"),
    "connection": {
        "mtls": Attribute(lambda check: any(_value_at(check, path) for path in _PROVEN), _PROVEN),
        "uri_san_peer_certificate": _changed(_PROVEN[0], lambda name: name if name.startswith(_SPIFFE) else None),
        "requested_server_name": _plain("tlsSession", "sni"),
    },
    "metadata": {"filter_metadata": _plain("metadataContext", "filterMetadata")},
}
_VARIABLES = tuple(ATTRIBUTES)


@dataclass(frozen=True, slots=True)
class Condition:
    """An expression that has to be true for a request to pass, with the attributes that it looks at."""

    program: Program
    attributes: tuple[tuple[str, str, Attribute], ...]
    parts: Parts

    def decide(self, request: CheckInput) -> Answer:
        """Return the answer to a request; what is not true, and what has no value, denies."""
        if request.attributes is None:
            return Answer("the check has no attributes for a provider", undecided=True)
        try:
            value = self.program.evaluate(self._variables(request.attributes(self.parts)))
        except (EvaluationError, ExhaustedError, InvalidInputError) as error:
            return Answer(f"its expression has no value: {error.message}", undecided=True)
        if value is True:
            return _ALLOWED
        return (
            _DENIED if value is False else Answer(f"its expression is a {name_of(value)}, not a bool", undecided=True)
        )

    def _variables(self, check: Check) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {name: {} for name in _VARIABLES}
        for variable, name, attribute in self.attributes:
            value = attribute.read(check)
            if value is not None:
                found[variable][name] = value
        return found


def read_condition(text: str) -> Condition:
    """Return the condition of a text. Raises InvalidInputError with what is wrong with it, and where."""
    program = Program(text, _VARIABLES)
    parts: set[Path] = set()
    needed: set[tuple[str, str]] = set()
    for path in program.reads:
        for variable, name in _needed(path):
            needed.add((variable, name))
            parts.update(_parts(ATTRIBUTES[variable][name], path[2:]))
    attributes = tuple((variable, name, ATTRIBUTES[variable][name]) for variable, name in sorted(needed))
    return Condition(program, attributes, parts_of(parts))


def _parts(attribute: Attribute, names: Path) -> Iterator[Path]:
    """Yield the parts of a check that are read: of the headers, no more than the one that is named."""
    for part in attribute.parts:
        yield (*part, names[0]) if names and part[-1] == "headers" else part


def _needed(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the attributes that a path reads. Raises InvalidInputError if there is no such attribute."""
    variable, *names = path
    known = ATTRIBUTES[variable]
    if not names:
        yield from ((variable, name) for name in known)
    elif names[0] in known:
        yield variable, names[0]
    else:
        near = difflib.get_close_matches(names[0], known, n=1)
        hint = f": did you mean {near[0]}?" if near else f"; there is {', '.join(known)}"
        raise InvalidInputError(f"has an attribute that does not exist: {variable}.{names[0]}{hint}")
