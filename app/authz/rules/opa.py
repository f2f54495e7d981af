"""What OPA-Envoy gives a policy as its input, and what its decision may be.

OPA's documentation, "OPA-Envoy: Envoy Plugin", the input document and the output document. Where the plugin answers
with an error, which Envoy's `failure_mode_allow` lets pass, the request is denied here.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import unquote

from app.authz.model import CheckInput
from app.authz.providers import Answer, Changes, HeaderValues
from app.authz.rules.bodies import ReadMessage, fields, no_constant, parsed_body, raw_body
from app.authz.rules.parts import EVERYTHING, Parts
from app.core.errors import InvalidInputError

VERSION = {"ext_authz": "v3", "encoding": "protojson"}
# A decision that OPA-Envoy would take is a few hundred bytes.
MAX_DECISION_BYTES = 64 * 1024
# Envoy's own parser of protobuf stops at 100 messages in each other, and a value in a Struct takes three.
MAX_METADATA_DEPTH = 16
# As many headers, or query parameters, as servers take in a request.
MAX_CHANGES = 100
# The input of one decision as JSON. It takes the event loop some 10 ms to write so much.
MAX_INPUT_BYTES = 1024 * 1024

_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))
_NOTHING: Parts = {}
# What OPA-Envoy's parser of URLs refuses in a path.
_UNREADABLE = re.compile(r"%(?![0-9A-Fa-f]{2})|[\x00-\x1f\x7f]")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# The final ones in Envoy's StatusCode (envoy/type/v3/http_status.proto): it sends no other.
_SUCCESS_AND_REDIRECTS = {*range(200, 209), 226, *range(300, 306), 307, 308}
_ERRORS = {*range(400, 418), 421, 422, 423, 424, 426, 428, 429, 431, *range(500, 509), 510, 511}
_STATUSES = frozenset(_SUCCESS_AND_REDIRECTS | _ERRORS)


@dataclass(frozen=True, slots=True)
class BodyReading:
    """How bodies are read: messages of gRPC by `message`, None for not at all; with `skip`, no body is."""

    message: ReadMessage | None = None
    skip: bool = False


def input_document(
    request: CheckInput, parts: Parts = EVERYTHING, reading: BodyReading = BodyReading()
) -> dict[str, Any]:
    """Return the input document; with `parts`, at least those of it. Raises InvalidInputError if the request has none.

    A path with a malformed escape raises as well, and a body that is not what its content-type says, whether they are
    read or not, unless bodies are skipped.
    """
    if request.attributes is None:
        raise InvalidInputError("the check has no attributes for a provider")
    attributes = request.attributes(parts.get("attributes", _NOTHING))
    http = attributes.get("request", {}).get("http", {})
    document: dict[str, Any] = {"attributes": attributes} if "attributes" in parts else {}
    path, _, query = http.get("path", "").partition("#")[0].partition("?")
    if _UNREADABLE.search(path):
        raise InvalidInputError("the path has a malformed escape or a control character")
    if "parsed_path" in parts or "parsed_query" in parts:
        document["parsed_path"] = unquote(path).lstrip("/").split("/")
        document["parsed_query"] = fields(query)
    if not reading.skip:
        body, truncated = parsed_body(http, partial(raw_body, request.attributes, http), reading.message)
        if "parsed_body" in parts:
            document["parsed_body"] = body
        if "truncated_body" in parts:
            document["truncated_body"] = truncated
    if "version" in parts:
        document["version"] = VERSION
    return document


def input_text(document: Mapping[str, Any]) -> bytes:
    """Return the input document as JSON. Raises InvalidInputError if it is none, or too long."""
    try:
        text = _ENCODER.encode(document).encode("ascii")
    except (ValueError, RecursionError) as error:
        raise InvalidInputError("the body is no JSON that a policy can read") from error
    if len(text) > MAX_INPUT_BYTES:
        raise InvalidInputError(f"the request is longer than {MAX_INPUT_BYTES} bytes as a policy's input")
    return text


def read_decision(value: object) -> Answer:
    """Return the answer in a policy's decision, a boolean or an object; one that is neither denies.

    Keys of an object that are not known are left, as OPA-Envoy does.
    """
    if value is True:
        return Answer()
    if value is False:
        return Answer("its policy denies the request")
    if not isinstance(value, dict):
        return _mistyped("is not a boolean or an object")
    allowed = value.get("allowed")
    if not isinstance(allowed, bool):
        return _mistyped("has no boolean 'allowed'")
    try:
        changes = _changes(value)
    except _MistypedError as error:
        return _mistyped(str(error))
    return Answer("" if allowed else "its policy denies the request", changes)


class _MistypedError(Exception):
    """A part of a decision is not what it has to be."""


def _mistyped(problem: str) -> Answer:
    return Answer(f"its decision {problem}", undecided=True)


def _changes(decision: Mapping[str, Any]) -> Changes:
    body, metadata = decision.get("body"), decision.get("dynamic_metadata")
    if body is not None and not isinstance(body, str):
        raise _MistypedError("has a 'body' that is not a string")
    if metadata is not None and (not isinstance(metadata, dict) or _is_deep(metadata, MAX_METADATA_DEPTH)):
        raise _MistypedError(f"has 'dynamic_metadata' that is not an object of at most {MAX_METADATA_DEPTH} levels")
    try:
        text = json.dumps(metadata, allow_nan=False) if metadata else ""
        if len(json.dumps(decision, ensure_ascii=False).encode()) > MAX_DECISION_BYTES:
            raise _MistypedError(f"is longer than {MAX_DECISION_BYTES} bytes")
    except (ValueError, RecursionError) as error:  # a lone surrogate is a ValueError, too
        raise _MistypedError("has text that is not Unicode, or is nested too deep") from error
    return Changes(
        headers=_headers(decision, "headers"),
        response_headers=_headers(decision, "response_headers_to_add"),
        headers_to_remove=_names(decision, "request_headers_to_remove"),
        query_to_set=tuple(_pairs(decision, "query_parameters_to_set")),
        query_to_remove=_strings(decision, "query_parameters_to_remove"),
        status=_status(decision),
        body=body,
        metadata=text,
    )


def _is_deep(value: object, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels == 0 or any(_is_deep(each, levels - 1) for each in inner)


def _status(decision: Mapping[str, Any]) -> int | None:
    status = decision.get("http_status")
    if status is None:
        return None
    if isinstance(status, bool) or not isinstance(status, int) or status not in _STATUSES:
        raise _MistypedError("has an 'http_status' that Envoy cannot send")
    return status


def _headers(decision: Mapping[str, Any], name: str) -> HeaderValues:
    found = tuple(_pairs(decision, name))
    for header, value in found:
        if _TOKEN.fullmatch(header) is None:
            raise _MistypedError(f"has a header in {name!r} whose name is none")
        if not value.isprintable():
            raise _MistypedError(f"has a header in {name!r} with characters that a value cannot have")
    return found


def _names(decision: Mapping[str, Any], name: str) -> tuple[str, ...]:
    found = _strings(decision, name)
    for header in found:
        if _TOKEN.fullmatch(header) is None or header.lower() == "host":
            raise _MistypedError(f"has a header in {name!r} that cannot be removed")
    return found


def _strings(decision: Mapping[str, Any], name: str) -> tuple[str, ...]:
    values = decision.get(name, [])
    if not isinstance(values, list) or len(values) > MAX_CHANGES or not all(isinstance(each, str) for each in values):
        raise _MistypedError(f"has a {name!r} that is not a list of at most {MAX_CHANGES} strings")
    return tuple(values)


def _pairs(decision: Mapping[str, Any], name: str) -> Iterator[tuple[str, str]]:
    """Yield names and values of an object, or of a list of objects, whose values are strings or lists of them."""
    given = decision.get(name, {})
    count = 0
    for mapping in given if isinstance(given, list) else [given]:
        if not isinstance(mapping, dict):
            raise _MistypedError(f"has a {name!r} that is not an object")
        for key, values in mapping.items():
            for value in values if isinstance(values, list) else [values]:
                count += 1
                if not isinstance(value, str) or count > MAX_CHANGES:
                    raise _MistypedError(f"has a {name!r} whose values are not at most {MAX_CHANGES} strings")
                yield key, value


def read_reply(text: bytes) -> Answer:
    """Return the answer in a decision that came as JSON."""
    try:
        return read_decision(json.loads(text, parse_constant=no_constant))
    except (ValueError, RecursionError):
        return _mistyped("is not JSON")
