"""Length-prefixed messages of gRPC over HTTP/2: one flag byte, four length bytes, the message."""

import zlib
from typing import Any, Protocol

from app.transport.grpc.status import Code, RpcError

HEADER_BYTES = 5
# What gRPC implementations accept by default; a Check with a body of a few hundred KB fits many times over.
DEFAULT_MAX_MESSAGE_BYTES = 4 * 1024 * 1024

IDENTITY = "identity"
GZIP = "gzip"
ENCODINGS = (IDENTITY, GZIP)

_PLAIN, _COMPRESSED = 0, 1
_GZIP_WINDOW_BITS = 31  # zlib's number for "expect a gzip header"


class Serializable(Protocol):
    """What can be sent as a message."""

    def SerializeToString(self) -> bytes:  # noqa: N802 - the name that messages have
        """Return the serialized message."""
        ...


def only_message(message: Serializable) -> dict[str, Any]:
    """Return the ASGI event of a response that is this one message."""
    return {"type": "http.response.body", "body": frame(message.SerializeToString()), "more_body": False}


def frame(message: bytes) -> bytes:
    """Return `message` with its prefix, uncompressed."""
    return b"\0" + len(message).to_bytes(4) + message


class FrameReader:
    """Cuts a stream of bytes into messages, however the bytes arrive.

    Holds at most one unfinished message, and never more than `max_bytes` of it: a longer one is refused as soon as its
    prefix has been read.
    """

    def __init__(self, encoding: str = IDENTITY, max_bytes: int = DEFAULT_MAX_MESSAGE_BYTES) -> None:
        self._encoding = encoding
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the messages that `data` completes, in order, decompressed.

        Raises RpcError: RESOURCE_EXHAUSTED if a message is or becomes too long, INTERNAL if a prefix or a compressed
        message is malformed.
        """
        self._buffer += data
        messages = []
        while (end := self._end_of_first()) and len(self._buffer) >= end:
            flag, payload = self._buffer[0], bytes(self._buffer[HEADER_BYTES:end])
            del self._buffer[:end]
            messages.append(self._decompress(payload) if flag == _COMPRESSED else payload)
        return messages

    def close(self) -> None:
        """Raise RpcError INTERNAL if the stream ended in the middle of a message."""
        if self._buffer:
            raise RpcError(Code.INTERNAL, "the request ended in the middle of a message")

    def _end_of_first(self) -> int:
        """Return where the first buffered message ends, 0 if its prefix is incomplete."""
        if len(self._buffer) < HEADER_BYTES:
            return 0
        flag, length = self._buffer[0], int.from_bytes(self._buffer[1:HEADER_BYTES])
        if flag not in {_PLAIN, _COMPRESSED}:
            raise RpcError(Code.INTERNAL, f"message prefix has the flag {flag}: only 0 and 1 are defined")
        if flag == _COMPRESSED and self._encoding == IDENTITY:
            raise RpcError(Code.INTERNAL, "message is marked compressed, but grpc-encoding names no compression")
        if length > self._max_bytes:
            raise RpcError(Code.RESOURCE_EXHAUSTED, f"message of {length} bytes is over the limit of {self._max_bytes}")
        return HEADER_BYTES + length

    def _decompress(self, payload: bytes) -> bytes:
        stream = zlib.decompressobj(_GZIP_WINDOW_BITS)
        try:
            message = stream.decompress(payload, self._max_bytes + 1)
        except zlib.error as error:
            raise RpcError(Code.INTERNAL, "message could not be decompressed as gzip") from error
        if len(message) > self._max_bytes:
            raise RpcError(
                Code.RESOURCE_EXHAUSTED, f"message is over the limit of {self._max_bytes} bytes when decompressed"
            )
        if not stream.eof or stream.unused_data:
            raise RpcError(Code.INTERNAL, "compressed message is cut off or has bytes after its end")
        return message
