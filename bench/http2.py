"""A load generator for unary gRPC over plaintext HTTP/2 that costs a core as little as it can.

Requests are encoded once, and answers are not parsed beyond their frame headers: a stream that ended with a HEADERS
frame counts as answered. It drives one server process over loopback with a bounded number of calls.
"""

import asyncio
import ssl
import struct
import time
from dataclasses import dataclass
from functools import partial
from itertools import cycle

from hpack import Encoder

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEADER_BYTES = 9
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7, 0x8
ACK = END_STREAM = 0x1
END_HEADERS = 0x4
# The windows are opened this wide once, so that no run waits for an update.
WINDOW = 2**31 - 1
FIRST_WINDOW = 65_535


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of call: where it goes, and the messages that it has in turn.

    Connections may `stay` open after their last answer, and are over TLS with a context in `tls`.
    """

    port: int
    path: str
    messages: tuple[bytes, ...]
    connections: int = 4
    in_flight: int = 8
    stay: bool = False
    tls: ssl.SSLContext | None = None


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame of HTTP/2."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def encoded_headers(path: str) -> bytes:
    """Return the headers of a call, the same for every stream: they depend on no state of the connection."""
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("grpc-timeout", "5S"),
    ]
    return bytes(Encoder().encode([(name, value, True) for name, value in headers]))  # never indexed


class _Connection(asyncio.Protocol):
    """Keeps `in_flight` calls open until `calls` have been answered."""

    def __init__(self, load: Load, calls: int, first: int) -> None:
        """`first` is the index of the message of the first call."""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._in_flight, self._to_send, self._to_answer = load.in_flight, calls, calls
        self._stay = load.stay
        self._to_receive = calls
        self._buffer = b""
        self._stream = 1
        self._headers = encoded_headers(load.path)
        messages = (*load.messages[first:], *load.messages[:first])
        self._messages = cycle(b"\0" + struct.pack(">I", len(message)) + message for message in messages)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        settings = frame(SETTINGS, 0, 0, struct.pack(">HI", 4, WINDOW))
        window = frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW - FIRST_WINDOW))
        transport.write(PREFACE + settings + window + self._open(self._in_flight))

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        position, end, answered, out = 0, len(buffer), 0, b""
        while position + FRAME_HEADER_BYTES <= end:
            length = (buffer[position] << 16) | (buffer[position + 1] << 8) | buffer[position + 2]
            following = position + FRAME_HEADER_BYTES + length
            if following > end:
                break
            kind, flags = buffer[position + 3], buffer[position + 4]
            if kind == HEADERS:
                answered += flags & END_STREAM
            elif kind == DATA:
                self._to_receive -= 1
            elif kind == SETTINGS and not flags & ACK:
                out += frame(SETTINGS, ACK, 0, b"")
            elif kind == PING and not flags & ACK:
                out += frame(PING, ACK, 0, buffer[position + FRAME_HEADER_BYTES : following])
            elif kind in {RST_STREAM, GOAWAY} and not self.done.done():
                self.done.set_exception(ConnectionError(f"the server ended a call: frame type {kind}"))
            position = following
        self._buffer = buffer[position:]
        self._go_on(out, answered)

    def _go_on(self, out: bytes, answered: int) -> None:
        """Send `out` and as many calls as were answered. An answer without a message is an error of the server's."""
        self._to_answer -= answered
        if out or answered:
            self._transport.write(out + self._open(answered))
        if self._to_answer > 0 or self.done.done():
            return
        if self._to_receive > 0:
            self.done.set_exception(ConnectionError(f"{self._to_receive} calls were answered with an error"))
        else:
            self.done.set_result(None)
        if not self._stay:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server closed the connection"))

    def _open(self, count: int) -> bytes:
        frames = []
        for _ in range(min(count, self._to_send)):
            frames.append(frame(HEADERS, END_HEADERS, self._stream, self._headers))
            frames.append(frame(DATA, END_STREAM, self._stream, next(self._messages)))
            self._stream += 2
            self._to_send -= 1
        return b"".join(frames)


async def run(load: Load, calls: int) -> float:
    """Make `calls` calls and return how many seconds they took. Raises ConnectionError if one was not answered."""
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    connections = []
    for index in range(load.connections):
        # Each connection starts elsewhere, so that they do not send the same messages at the same time.
        first = index * len(load.messages) // load.connections
        _, connection = await loop.create_connection(
            partial(_Connection, load, calls // load.connections, first), "127.0.0.1", load.port, ssl=load.tls
        )
        connections.append(connection)
    await asyncio.gather(*(connection.done for connection in connections))
    return time.perf_counter() - started
