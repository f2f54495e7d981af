"""How long calls take that are made at a rate, whether those before them are answered or not."""

import asyncio
import struct
from functools import partial
from itertools import cycle

from bench.http2 import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    FIRST_WINDOW,
    FRAME_HEADER_BYTES,
    HEADERS,
    PING,
    PREFACE,
    SETTINGS,
    WINDOW,
    WINDOW_UPDATE,
    Load,
    encoded_headers,
    frame,
)


class _Paced(asyncio.Protocol):
    """Makes a call when it is told to, and notes how long each took since it was due."""

    def __init__(self, load: Load, answered: asyncio.Event) -> None:
        """Set `answered` with every answer."""
        self._answered = answered
        self.took: list[float] = []
        self._due: dict[int, float] = {}
        self._stream = 1
        self._buffer = b""
        self._headers = encoded_headers(load.path)
        self._messages = cycle(b"\0" + struct.pack(">I", len(message)) + message for message in load.messages)
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        settings = frame(SETTINGS, 0, 0, struct.pack(">HI", 4, WINDOW))
        transport.write(PREFACE + settings + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW - FIRST_WINDOW)))

    def call(self, due: float) -> None:
        """Make a call that was due at `due` (the event loop's time)."""
        self._due[self._stream] = due
        headers = frame(HEADERS, END_HEADERS, self._stream, self._headers)
        self._transport.write(headers + frame(DATA, END_STREAM, self._stream, next(self._messages)))
        self._stream += 2

    def data_received(self, data: bytes) -> None:
        buffer, position = self._buffer + data, 0
        while position + FRAME_HEADER_BYTES <= len(buffer):
            following = position + FRAME_HEADER_BYTES + int.from_bytes(buffer[position : position + 3])
            if following > len(buffer):
                break
            kind, flags = buffer[position + 3], buffer[position + 4]
            stream = int.from_bytes(buffer[position + 5 : position + 9])
            if kind == HEADERS and flags & END_STREAM:
                self.took.append(self._loop.time() - self._due.pop(stream))
                self._answered.set()
            elif kind in {SETTINGS, PING} and not flags & ACK:
                payload = buffer[position + FRAME_HEADER_BYTES : following] if kind == PING else b""
                self._transport.write(frame(kind, ACK, 0, payload))
            position = following
        self._buffer = buffer[position:]

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()


async def latencies(load: Load, rate: float, calls: int) -> list[float]:
    """Make `calls` calls, `rate` in a second, and return the seconds that each took, the shortest first.

    The time before a call that is late because the machine was busy counts, too. Raises TimeoutError if one is not
    answered within seconds of the last.
    """
    loop = asyncio.get_running_loop()
    connections = []
    answered = asyncio.Event()
    for _ in range(load.connections):
        _, connection = await loop.create_connection(partial(_Paced, load, answered), "127.0.0.1", load.port)
        connections.append(connection)
    started = loop.time()
    made = 0
    while made < calls:
        while made < calls and (due := started + made / rate) <= loop.time():
            connections[made % len(connections)].call(due)
            made += 1
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        while sum(len(each.took) for each in connections) < calls:
            answered.clear()
            await answered.wait()
    for connection in connections:
        connection.close()
    return sorted(took for each in connections for took in each.took)
