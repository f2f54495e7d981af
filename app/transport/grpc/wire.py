"""gRPC over HTTP/2 on the wire (grpc/doc/PROTOCOL-HTTP2.md), as ASGI carries it: body, headers, trailers."""

import base64
import binascii
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import quote

from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status

from app.core.errors import InvalidInputError, MeshwardError, ResourceExhaustedError
from app.transport.grpc.status import Code, RpcError

# A message's prefix: one byte of flags, four of length.
PREFIX_BYTES = 5
# What gRPC implementations accept by default; a Check with a body of a few hundred KB fits many times over.
DEFAULT_MAX_MESSAGE_BYTES = 4 * 1024 * 1024
# Unfinished messages of all calls together: sixteen of the largest, of which honest clients send one in a while.
MAX_BUFFERED_BYTES = 64 * 1024 * 1024
UNPROVEN_SHARE = 4

IDENTITY = "identity"
GZIP = "gzip"
ENCODINGS = (IDENTITY, GZIP)

CONTENT_TYPE_GRPC = b"application/grpc"
CONTENT_TYPE = (b"content-type", CONTENT_TYPE_GRPC)
ACCEPT_ENCODING = (b"grpc-accept-encoding", b"identity,gzip")

# The ASGI events around the messages of a call that sends no metadata of its own.
START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": [CONTENT_TYPE], "trailers": True}
END_OF_BODY: dict[str, Any] = {"type": "http.response.body", "body": b"", "more_body": False}
OK_TRAILERS: dict[str, Any] = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}

_UNCOMPRESSED, _COMPRESSED = 0, 1
_GZIP_WINDOW_BITS = 31  # zlib's number for "expect a gzip header"

Headers = Iterable[tuple[bytes, bytes]]
Metadata = dict[str, tuple[str | bytes, ...]]

# Longest status message put into a header; HTTP/2 peers refuse header lists of a few KB more.
MAX_STATUS_MESSAGE = 1024
# Field violations in the details of one status.
MAX_VIOLATIONS = 20

_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_RESERVED = frozenset({b"content-type", b"te", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding", b"host"})
_UNQUOTED = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


class Serializable(Protocol):
    """What can be sent as a message."""

    def SerializeToString(self) -> bytes:  # noqa: N802 - the name that messages have
        """Return the serialized message."""


def message_event(message: Serializable) -> dict[str, Any]:
    """Return the ASGI event of a response body that is this one message."""
    return payload_event(message.SerializeToString())


def payload_event(payload: bytes) -> dict[str, Any]:
    """Return the ASGI event of a response body that is this one serialized message."""
    return {"type": "http.response.body", "body": b"\0" + len(payload).to_bytes(4) + payload, "more_body": False}


def frame(message: bytes) -> bytes:
    """Return `message` with its prefix, uncompressed."""
    return b"\0" + len(message).to_bytes(4) + message


class BufferBudget:
    """The bytes of unfinished messages that all calls together may hold in memory.

    `held` is how many there are. Callers that have proven no identity share a quarter of them, so that they cannot
    exhaust them for the others.
    """

    def __init__(self, max_bytes: int = MAX_BUFFERED_BYTES) -> None:
        self._max_bytes = max_bytes
        self.held = 0

    def resize(self, held: int, wanted: int, *, proven: bool) -> None:
        """Replace `held` bytes of one call by `wanted`. Raises RpcError RESOURCE_EXHAUSTED if they are too many."""
        total = self.held - held + wanted
        if wanted > held and total > (self._max_bytes if proven else self._max_bytes // UNPROVEN_SHARE):
            raise RpcError(Code.RESOURCE_EXHAUSTED, "too many unfinished requests are in memory: retry later")
        self.held = total


class FrameReader:
    """Splits a stream of bytes into messages, however the bytes arrive.

    Holds at most one unfinished message, and never more than `max_bytes` of it: a longer one is refused as soon as its
    prefix has been read. What it holds counts against `budget` until `release`.
    """

    def __init__(
        self,
        encoding: str = IDENTITY,
        max_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        budget: BufferBudget | None = None,
        *,
        proven: bool = True,
    ) -> None:
        self._encoding = encoding
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._budget = budget or BufferBudget()
        self._proven = proven
        self._held = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Return the messages that `data` completes, in order, decompressed.

        Raises InvalidInputError if a prefix or a compressed message is malformed, RpcError RESOURCE_EXHAUSTED if a
        message is or becomes too long, and INTERNAL if one is marked compressed in a call without compression.
        """
        self._buffer += data
        messages = []
        while (end := self._end_of_first()) and len(self._buffer) >= end:
            flag, payload = self._buffer[0], bytes(self._buffer[PREFIX_BYTES:end])
            del self._buffer[:end]
            messages.append(self._decompress(payload) if flag == _COMPRESSED else payload)
        self._hold(len(self._buffer))
        return messages

    def release(self) -> None:
        """Drop what is held, at the end of the call."""
        self._buffer.clear()
        self._hold(0)

    def _hold(self, size: int) -> None:
        self._budget.resize(self._held, size, proven=self._proven)
        self._held = size

    def close(self) -> None:
        """Raise InvalidInputError if the stream ended in the middle of a message."""
        if self._buffer:
            raise InvalidInputError("the request ended in the middle of a message")

    def _end_of_first(self) -> int:
        """Return where the first buffered message ends, 0 if its prefix is incomplete."""
        if len(self._buffer) < PREFIX_BYTES:
            return 0
        flag, length = self._buffer[0], int.from_bytes(self._buffer[1:PREFIX_BYTES])
        if flag not in {_UNCOMPRESSED, _COMPRESSED}:
            raise InvalidInputError(f"message prefix has the flag {flag}: only 0 and 1 are defined")
        if flag == _COMPRESSED and self._encoding == IDENTITY:
            # The one malformed message whose code the specification fixes (grpc/doc/compression.md).
            raise RpcError(Code.INTERNAL, "message is marked compressed, but grpc-encoding names no compression")
        if length > self._max_bytes:
            raise RpcError(Code.RESOURCE_EXHAUSTED, f"message of {length} bytes is over the limit of {self._max_bytes}")
        return PREFIX_BYTES + length

    def _decompress(self, payload: bytes) -> bytes:
        stream = zlib.decompressobj(_GZIP_WINDOW_BITS)
        try:
            message = stream.decompress(payload, self._max_bytes + 1)
        except zlib.error as error:
            raise InvalidInputError("message could not be decompressed as gzip") from error
        if len(message) > self._max_bytes:
            raise RpcError(
                Code.RESOURCE_EXHAUSTED, f"message is over the limit of {self._max_bytes} bytes when decompressed"
            )
        if not stream.eof or stream.unused_data:
            raise InvalidInputError("compressed message is cut off or has bytes after its end")
        return message


def parse_metadata(headers: Headers) -> Metadata:
    """Return the custom metadata, `-bin` values as bytes, others as str; what is not base64 or ASCII is left out."""
    metadata: dict[str, tuple[str | bytes, ...]] = {}
    for raw_name, raw_value in headers:
        if raw_name in _RESERVED or raw_name.startswith(b":"):
            continue
        value = _binary(raw_value) if raw_name.endswith(b"-bin") else _text(raw_value)
        if value is not None:
            name = raw_name.decode("latin-1").lower()
            metadata[name] = (*metadata.get(name, ()), value)
    return metadata


def parse_timeout(value: bytes) -> float:
    """Return the seconds of a `grpc-timeout`. Raises InvalidInputError if it is malformed."""
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        raise InvalidInputError("grpc-timeout is malformed: use at most 8 digits and one of H M S m u n")
    return int(match[1]) * _SECONDS[match[2]]


@lru_cache(maxsize=256)  # clients send the same few, by configuration
def call_seconds(timeout: bytes | None, maximum: float) -> float:
    """Return how long a call may take: its `grpc-timeout`, `maximum` at most. Raises InvalidInputError."""
    return maximum if timeout is None else min(parse_timeout(timeout), maximum)


def request_encoding(headers: Mapping[bytes, bytes]) -> str:
    """Return the compression of the request's messages. Raises RpcError UNIMPLEMENTED for an unknown one."""
    name = headers.get(b"grpc-encoding", b"identity").decode("latin-1")
    if name not in ENCODINGS:
        raise RpcError(Code.UNIMPLEMENTED, f"grpc-encoding {name[:64]!r} is not supported: use identity or gzip")
    return name


def encode_message(message: str) -> bytes:
    """Return `message` percent-encoded for `grpc-message`, cut to MAX_STATUS_MESSAGE characters."""
    return quote(message[:MAX_STATUS_MESSAGE], safe=_UNQUOTED).encode("ascii")


def error_trailers(code: Code, error: MeshwardError, error_id: str = "") -> list[tuple[bytes, bytes]]:
    """Return the trailers of a failed call: violations are a BadRequest, the time to retry is a RetryInfo.

    `error_id`, by which the log has the reason, ends the message.
    """
    message = f"{error.message} (error id {error_id})" if error_id else error.message
    trailers = [(b"grpc-status", str(code.value).encode()), (b"grpc-message", encode_message(message))]
    details = list(_details(error))
    if details:
        status = Status(code=code.value, message=message[:MAX_STATUS_MESSAGE])
        for detail in details:
            status.details.add().Pack(detail)
        trailers.append((b"grpc-status-details-bin", base64.b64encode(status.SerializeToString()).rstrip(b"=")))
    return trailers


def _details(error: MeshwardError) -> Iterator[Message]:
    if error.violations:
        bad_request = BadRequest()
        for violation in error.violations[:MAX_VIOLATIONS]:
            bad_request.field_violations.add(field=violation.path, description=violation.problem)
        yield bad_request
    if isinstance(error, ResourceExhaustedError) and error.retry_seconds is not None:
        retry = RetryInfo()
        retry.retry_delay.FromTimedelta(timedelta(seconds=error.retry_seconds))
        yield retry


def _text(value: bytes) -> str | None:
    return value.decode("ascii") if value.isascii() else None


def _binary(value: bytes) -> bytes | None:
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
