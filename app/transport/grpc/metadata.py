"""Headers and trailers: metadata, the timeout, the status message."""

import base64
import binascii
import re
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import quote

from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status

from app.core.errors import MeshwardError
from app.transport.grpc.status import Code, RpcError

Headers = Iterable[tuple[bytes, bytes]]
Metadata = dict[str, tuple[str | bytes, ...]]

# Longest status message put into a header; HTTP/2 peers refuse header lists of a few KB more.
MAX_STATUS_MESSAGE = 1024
# Field violations told in one answer.
MAX_VIOLATIONS = 20

_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_RESERVED = frozenset({b"content-type", b"te", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding", b"host"})
_UNQUOTED = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


def parse_metadata(headers: Headers) -> Metadata:
    """Return the call's custom metadata: text values as str, values of `-bin` keys decoded to bytes.

    A `-bin` value that is not base64, or text that is not ASCII, is left out: no handler can be misled by it.
    """
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
    """Return the seconds of a `grpc-timeout`. Raises RpcError INTERNAL if it is malformed."""
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        raise RpcError(Code.INTERNAL, "grpc-timeout is malformed: use at most 8 digits and one of H M S m u n")
    return int(match[1]) * _SECONDS[match[2]]


@lru_cache(maxsize=256)  # clients send the same few, by configuration
def time_budget(timeout: bytes | None, most: float) -> float:
    """Return the seconds that a call has: what its `grpc-timeout` says, but no more than `most`.

    Raises RpcError INTERNAL if the timeout is malformed.
    """
    return most if timeout is None else min(parse_timeout(timeout), most)


def encode_message(message: str) -> bytes:
    """Return `message` percent-encoded for `grpc-message`, cut to MAX_STATUS_MESSAGE characters."""
    return quote(message[:MAX_STATUS_MESSAGE], safe=_UNQUOTED).encode("ascii")


def error_trailers(code: Code, error: MeshwardError) -> list[tuple[bytes, bytes]]:
    """Return the trailers of a failed call; violations travel as google.rpc.BadRequest in the status details."""
    trailers = [(b"grpc-status", str(int(code)).encode()), (b"grpc-message", encode_message(error.message))]
    if error.violations:
        bad_request = BadRequest()
        for violation in error.violations[:MAX_VIOLATIONS]:
            bad_request.field_violations.add(field=violation.path, description=violation.problem)
        detail = AnyMessage()
        detail.Pack(bad_request)
        status = Status(code=int(code), message=error.message[:MAX_STATUS_MESSAGE], details=[detail])
        trailers.append((b"grpc-status-details-bin", base64.b64encode(status.SerializeToString()).rstrip(b"=")))
    return trailers


def encode_metadata(metadata: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Return text metadata as header pairs. Raises ValueError if a value could break out of its header."""
    return [(name.encode("ascii"), _header_value(value)) for name, value in metadata]


def _header_value(value: str) -> bytes:
    if not value.isprintable():
        raise ValueError("metadata value has a control character")
    return value.encode("ascii")


def _text(value: bytes) -> str | None:
    return value.decode("ascii") if value.isascii() else None


def _binary(value: bytes) -> bytes | None:
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
