"""A check as providers have it: Envoy's AttributeContext in protobuf's JSON form, as OPA-Envoy puts it into its input.

Written out field by field for those of every check, which takes a tenth of the time of protobuf's own writer.
"""

import re
from base64 import b64encode
from typing import Any

from google.protobuf.json_format import Error as JsonError
from google.protobuf.json_format import MessageToDict

from app.authz.rules.parts import EVERYTHING, Parts
from app.core.errors import InvalidInputError

# `encode_raw_headers` keeps bytes that are not UTF-8. Envoy writes them as `!` where it has to write text.
_NOT_UTF8 = re.compile("[\udc80-\udcff]")
# What the rest of an input document is made of.
_ALWAYS = frozenset({"path", "body"})
_PARTIAL = "x-envoy-auth-partial-body"
_OF_THE_BODY = "content-type", "content-encoding", "content-length", "grpc-encoding", _PARTIAL
_NOTHING: Parts = {}
_TEXTS = ("id", "method", "path", "host", "scheme", "query", "fragment", "protocol", "body")


def attributes_of(attributes: Any, parts: Parts = EVERYTHING) -> dict[str, Any]:
    """Return the attributes of a CheckRequest; what is empty is left out.

    With `parts`, it is at least those, and what the other parts of an input document are made of: path and body. Raw
    headers are there as Envoy would have written them without `encode_raw_headers` as well, and a raw body as text if
    it is text. Raises InvalidInputError for what cannot be written as JSON, such as metadata of an unknown type.
    """
    found: dict[str, Any] = {}
    if "source" in parts and attributes.HasField("source"):
        found["source"] = _peer(attributes.source, parts["source"])
    if "destination" in parts and attributes.HasField("destination"):
        found["destination"] = _peer(attributes.destination, parts["destination"])
    if attributes.HasField("request"):
        request = attributes.request
        asked = parts.get("request", _NOTHING)
        found["request"] = {"http": _http(request.http, asked.get("http", _NOTHING))}
        if "time" in asked and request.HasField("time"):
            found["request"]["time"] = _written(request.time)
    if "contextExtensions" in parts and attributes.context_extensions:
        found["contextExtensions"] = dict(attributes.context_extensions)
    for name, key in (("metadata_context", "metadataContext"), ("route_metadata_context", "routeMetadataContext")):
        if key in parts and attributes.HasField(name):
            found[key] = _written(getattr(attributes, name))
    if "tlsSession" in parts and attributes.tls_session.sni:
        found["tlsSession"] = {"sni": attributes.tls_session.sni}
    return found


def _written(message: Any) -> Any:
    """Return a message in protobuf's JSON form. Raises InvalidInputError if it has none, as with an infinite number."""
    try:
        return MessageToDict(message)
    except (JsonError, TypeError, ValueError) as error:
        name = message.DESCRIPTOR.name
        raise InvalidInputError(f"the check has what cannot be written as JSON, in its {name}: {error}") from error


def _peer(peer: Any, parts: Parts) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "address" in parts:
        address = peer.address
        if address.WhichOneof("address") == "socket_address":
            at = address.socket_address
            found["address"] = {"socketAddress": {"address": at.address, "portValue": at.port_value}}
        elif peer.HasField("address"):
            found["address"] = _written(address)
    for name in ("service", "principal", "certificate"):
        if name in parts and (value := getattr(peer, name)):
            found[name] = value
    if "labels" in parts and peer.labels:
        found["labels"] = dict(peer.labels)
    return found


def _http(http: Any, parts: Parts) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in _TEXTS:
        if (name in parts or name in _ALWAYS) and (value := getattr(http, name)):
            found[name] = value
    if "size" in parts and http.size:
        found["size"] = str(http.size)
    if http.raw_body:
        body = _text(http.raw_body)
        if "body" not in found and body is not None:
            found["body"] = body
        if "rawBody" in parts:
            found["rawBody"] = b64encode(http.raw_body).decode()
    raw = http.header_map.headers
    if not raw:
        found["headers"] = _named_headers(http.headers, parts, has_body="body" in found or bool(http.raw_body))
        return found
    if "headerMap" in parts:
        found["headerMap"] = {"headers": [_raw_header(header) for header in raw]}
    found["headers"] = _merged([(header.key, header.raw_value or header.value.encode()) for header in raw])
    return found


def _named_headers(headers: Any, parts: Parts, *, has_body: bool) -> dict[str, str]:
    """Return the headers that are named, or all of them."""
    named = parts.get("headers", _NOTHING)
    if named is EVERYTHING:
        return dict(headers)
    wanted = (*named, *_OF_THE_BODY) if has_body else (*named, _PARTIAL)
    return {name: value for name in wanted if (value := headers.get(name)) is not None}


def _raw_header(header: Any) -> dict[str, str]:
    if header.raw_value:
        return {"key": header.key, "rawValue": b64encode(header.raw_value).decode()}
    return {"key": header.key, "value": header.value}


def http_attributes(
    method: str, path: str, headers: list[tuple[str, bytes]], body: bytes, principal: str
) -> dict[str, Any]:
    """Return the attributes of a check over HTTP; `principal` is the peer's SPIFFE id, empty if it is not known."""
    merged = _merged(headers)
    http: dict[str, Any] = {"method": method, "path": path, "host": merged.get("host", ""), "headers": merged}
    if body:
        text = _text(body)
        raw = text is None or "application/grpc" in merged.get("content-type", "")
        http |= {"rawBody": b64encode(body).decode()} if raw else {"body": text}
    source = {"principal": principal} if principal else {}
    return {"source": source, "request": {"http": http}}


def _merged(headers: list[tuple[str, bytes]]) -> dict[str, str]:
    """Return the headers by lower-case name, values of one name with commas between them."""
    found: dict[str, str] = {}
    for name, raw in headers:
        value = _NOT_UTF8.sub("!", raw.decode("utf-8", "surrogateescape"))
        key = name.lower()
        found[key] = f"{found[key]},{value}" if key in found else value
    return found


def _text(body: bytes) -> str | None:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None
