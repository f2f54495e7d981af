"""The body of a request as a policy reads it, by its content-type: JSON, forms, and messages of gRPC.

As OPA-Envoy makes `parsed_body` and `truncated_body`. Stricter: what two servers can read in two ways, such as an
object with a name twice or a form whose parts have no name, is refused and not read in one of them.
"""

import json
import re
import zlib
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl

from app.authz.rules.parts import EVERYTHING
from app.core.errors import InvalidInputError

# Parameters of one query or form, and parts of a form.
MAX_FIELDS = 1000
# What is longer as JSON is longer than a policy's input may be; so much takes the event loop up to 100 ms to parse.
MAX_JSON_BYTES = 1 << 20
# The head of one part: its disposition, its type, and what some clients add.
MAX_PART_HEAD = 8 * 1024
# What one message of gRPC may have, unpacked: to make a document of one with 16,000 fields takes up to 80 ms.
MAX_MESSAGE_BYTES = 32 * 1024

ReadMessage = Callable[[str, str, bytes], object]
"""Takes a service (`shop.v1.Carts`), a method, and the message that it is called with, in protobuf's binary form.

Returns the message in protobuf's JSON form, None if the method is not known or streams its requests. Raises
InvalidInputError if the message is not one that the method takes.
"""

_PARTIAL = "x-envoy-auth-partial-body"
_RAW = {"request": {"http": {"rawBody": EVERYTHING}}}
_DIGITS = re.compile(r"[0-9]{1,18}")
_MALFORMED_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
# RFC 2046, section 5.1.1.
_BOUNDARY = re.compile(
    r";[ \t]*boundary=(?:"
    r"\"([0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-])\""
    r"|([0-9A-Za-z'+_.-]{1,70}))[ \t]*(?=;|$)",
    re.IGNORECASE,
)
# The parameter of a content-type (RFC 9110, section 8.3.2), and those of its values in which what separates names and
# values is what it is in UTF-8.
_CHARSET = re.compile(r';[ \t]*charset=("?)([a-z0-9._-]+)\1[ \t]*(?=;|$)')
_PLAIN_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii", "iso-8859-1"})
_NOT_ENCODED = "identity"
_HEADER = re.compile(rb"([0-9A-Za-z-]+):([^\r\n]*)")
# A name in quotes, without what is escaped in one; or without, as .NET writes it. The names of a file decide nothing.
_DISPOSITION = re.compile(
    rb'form-data;[ \t]*name=(?:"([^"\\\r\n]+)"|([0-9A-Za-z._-]+))'
    rb"""(?:;[ \t]*filename\*?=(?:"(?:[^"\\\r\n]|\\[^\r\n])*"|[0-9A-Za-z!#$%&'*+.^_`|~-]+)){0,2}""",
    re.IGNORECASE,
)
_PLAIN_ENCODINGS = frozenset({b"7bit", b"8bit", b"binary"})
# What stands before a message: whether it is compressed, and its length.
_FRAME = 5
_CALL = re.compile(r"/([A-Za-z_][A-Za-z0-9_.]*)/([A-Za-z_][A-Za-z0-9_]*)")
# How `grpc-encoding` calls what zlib reads, and zlib's parameter.
_ENCODINGS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


def parsed_body(
    http: Mapping[str, Any], raw: Callable[[], bytes], read_message: ReadMessage | None
) -> tuple[object, bool]:
    """Return the body as a policy reads it, None where it reads none, and whether the body was cut.

    `http` is the request in protobuf's JSON form; `raw` returns the body as bytes, none if Envoy sent it as text.
    Raises InvalidInputError if the body is not what its content-type says.
    """
    headers: Mapping[str, str] = http.get("headers", {})
    if headers.get(_PARTIAL) == "true":
        return None, True
    text: str = http.get("body", "")
    kind = headers.get("content-type", "")
    lowered = kind.lower()
    readers = [read for name, read in _KINDS if name in lowered]
    is_call = "application/grpc" in lowered
    if not readers:
        if is_call and read_message is not None and (body := raw()):
            return (None, True) if _is_cut(headers, body) else _message(http, headers, body, read_message)
        return None, bool(text) and _is_cut(headers, text.encode("utf-8", "surrogatepass"))
    body = text.encode("utf-8", "surrogatepass") or raw()
    if not body:
        return None, False
    if len(readers) + is_call > 1:
        raise InvalidInputError("the content-type names several kinds of body, of which servers take one or another")
    if headers.get("content-encoding", _NOT_ENCODED).lower() != _NOT_ENCODED:
        raise InvalidInputError("the body has a content-encoding, which is not decoded here")
    _check_charset(lowered)
    return (None, True) if _is_cut(headers, body) else (readers[0](body, kind), False)


def _check_charset(kind: str) -> None:
    """Raise InvalidInputError if a content-type, in lower case, has a charset in which a body has other characters."""
    found = [match[2] for match in _CHARSET.finditer(kind)]
    if len(found) != kind.count("charset") or not _PLAIN_CHARSETS.issuperset(found):
        raise InvalidInputError("the content-type has a charset other than UTF-8, ASCII and ISO-8859-1")


def raw_body(attributes: Callable[[Mapping[str, Any]], dict[str, Any]], http: Mapping[str, Any]) -> bytes:
    """Return the body as bytes where Envoy sent it so; `attributes` returns the parts of the check."""
    found = http.get("rawBody") or attributes(_RAW).get("request", {}).get("http", {}).get("rawBody", "")
    return b64decode(found)


def fields(text: str) -> dict[str, list[str]]:
    """Return the values of a query's or a form's parameters, by their names."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise InvalidInputError(f"the query or the form has more than {MAX_FIELDS} parameters") from error
    return _by_name(pairs)


def no_constant(name: str) -> object:
    """Raise ValueError: NaN and Infinity are not JSON, though Python's parser takes them."""
    raise ValueError(f"{name} is not JSON")


def _by_name(pairs: Iterable[tuple[str, Any]]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found


def _is_cut(headers: Mapping[str, str], body: bytes) -> bool:
    length = headers.get("content-length", "")
    if length and _DIGITS.fullmatch(length) is None:
        raise InvalidInputError("content-length is not a number")
    return bool(length) and int(length) > len(body)


def _json(body: bytes, _kind: str = "") -> object:
    if len(body) > MAX_JSON_BYTES:
        raise InvalidInputError(f"the body is JSON longer than {MAX_JSON_BYTES} bytes")
    try:
        return json.loads(body.decode(), parse_constant=no_constant, object_pairs_hook=_object)
    except _TwiceError as error:
        raise InvalidInputError("the body has a name twice in one object, which servers read in two ways") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInputError("the body is not JSON, which its content-type says it is") from error


class _TwiceError(Exception):
    """An object has a name twice."""


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _TwiceError
    return found


def _form(body: bytes, _kind: str) -> object:
    text = body.decode("utf-8", "replace")
    if ";" in text or _MALFORMED_ESCAPE.search(text):
        raise InvalidInputError("the form has a semicolon or a malformed escape, which servers read in two ways")
    return fields(text)


def _parts(body: bytes, kind: str) -> object:
    found = _BOUNDARY.findall(kind)
    if len(found) != 1:
        raise InvalidInputError("the body is a form in parts, and its content-type does not have one boundary")
    return _by_name(_form_parts(body, (found[0][0] or found[0][1]).encode()))


def _form_parts(body: bytes, boundary: bytes) -> Iterator[tuple[str, object]]:
    """Yield names and values of a form's parts (RFC 7578), whose lines end as the first one does."""
    delimiter = b"--" + boundary
    end = b"\r\n" if body.startswith(delimiter + b"\r\n") else b"\n"
    _, *pieces = (end + body).split(end + delimiter, MAX_FIELDS + 2)
    if len(pieces) > MAX_FIELDS + 1:
        raise InvalidInputError(f"the form has more than {MAX_FIELDS} parts")
    if not body.startswith(delimiter) or pieces[-1] not in {b"--", b"--" + end}:
        raise InvalidInputError("the multipart body does not begin and end with its boundary")
    if end == b"\n" and b"\r" in body:
        raise InvalidInputError("the multipart body has lines that do not all end in the same way")
    if body.count(delimiter) != len(pieces) or not all(piece.startswith(end) for piece in pieces[:-1]):
        raise InvalidInputError("the multipart body has its boundary in a place that parsers read differently")
    for piece in pieces[:-1]:
        yield _part(piece.removeprefix(end), end)


def _part(piece: bytes, end: bytes) -> tuple[str, object]:
    head, found, value = piece.partition(end + end)
    lines = head.split(end)
    headers = {line[1].lower(): line[2].strip() for line in map(_HEADER.fullmatch, lines) if line is not None}
    name = _DISPOSITION.fullmatch(headers.get(b"content-disposition", b""))
    if not found or len(head) > MAX_PART_HEAD or len(headers) != len(lines) or name is None:
        raise InvalidInputError("the form has a part that is not headers and a value, with one plain name")
    if headers.get(b"content-transfer-encoding", b"binary").lower() not in _PLAIN_ENCODINGS:
        raise InvalidInputError(
            "a part of the multipart body has a Content-Transfer-Encoding, which parsers read differently"
        )
    kind = headers.get(b"content-type", b"").decode("latin-1").lower()
    _check_charset(kind)
    is_json = "application/json" in kind
    return (name[1] or name[2]).decode("utf-8", "replace"), _json(value) if is_json else value.decode(
        "utf-8", "replace"
    )


_KINDS: tuple[tuple[str, Callable[[bytes, str], object]], ...] = (
    ("application/json", _json),
    ("application/x-www-form-urlencoded", _form),
    ("multipart/form-data", _parts),
)


def _message(
    http: Mapping[str, Any], headers: Mapping[str, str], body: bytes, read_message: ReadMessage
) -> tuple[object, bool]:
    """Return the message of a call, and whether it was cut (gRPC over HTTP/2, "Length-Prefixed-Message")."""
    call = _CALL.fullmatch(http.get("path", ""))
    if call is None:
        raise InvalidInputError("the path is not a call of gRPC, which the content-type says it is")
    if len(body) < _FRAME:
        return None, True
    size = int.from_bytes(body[1:_FRAME], "big")
    if size > len(body) - _FRAME:
        return None, True
    message = body[_FRAME : _FRAME + size]
    if body[0]:
        message = _unpacked(message, headers.get("grpc-encoding", ""), is_packed=body[0] == 1)
    if len(message) > MAX_MESSAGE_BYTES:
        raise InvalidInputError(f"the message is longer than {MAX_MESSAGE_BYTES} bytes")
    found = read_message(call[1], call[2], message)
    if found is not None and len(body) > _FRAME + size:
        raise InvalidInputError("the call has more than the one message that its method takes")
    return found, False


def _unpacked(message: bytes, encoding: str, *, is_packed: bool) -> bytes:
    bits = _ENCODINGS.get(encoding)
    if bits is None or not is_packed:
        raise InvalidInputError("the message is compressed in a way that cannot be read: use gzip or deflate")
    packed = zlib.decompressobj(bits)
    try:
        unpacked = packed.decompress(message, MAX_MESSAGE_BYTES + 1)
    except zlib.error as error:
        raise InvalidInputError("the message is not compressed as its grpc-encoding says") from error
    if len(unpacked) <= MAX_MESSAGE_BYTES and (not packed.eof or packed.unused_data):
        raise InvalidInputError("the message is not compressed as its grpc-encoding says")
    return unpacked
