"""An HTTP/2 client that sends what it is told, byte for byte, and hands back what came."""

import asyncio
from dataclasses import dataclass, field

from google.protobuf.wrappers_pb2 import StringValue
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, ResponseReceived, StreamEnded, StreamReset, TrailersReceived

from tests.fakes.echo import ECHO

WAIT_SECONDS = 5


def framed(value, flag=0):
    """A StringValue with its prefix."""
    message = StringValue(value=value).SerializeToString()
    return bytes([flag]) + len(message).to_bytes(4) + message


@dataclass
class Answer:
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)
    data_frames: int = 0
    reset: int | None = None
    ended: bool = False

    @property
    def status(self):
        return self.trailers.get("grpc-status", self.headers.get("grpc-status"))


class RawClient:
    def __init__(self, reader, writer):
        self._reader, self._writer = reader, writer
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.closed = False
        self.method = "Unary"

    @classmethod
    async def connect(cls, port):
        client = cls(*await asyncio.open_connection("127.0.0.1", port))
        await client.flush()
        return client

    async def call(self, method, data):
        """Make a call, and make its method the one that is meant where none is named."""
        stream = await self.open(method)
        await self.send(stream, data, end=True)
        self.method = method
        return await self.answer(stream)

    async def flush(self):
        self._writer.write(self.h2.data_to_send())
        await self._writer.drain()

    async def open(self, method=None, **changed):
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": f"/{ECHO}/{method or self.method}",
            ":authority": "localhost",
            "content-type": "application/grpc",
            "te": "trailers",
        } | {name.replace("_", "-"): value for name, value in changed.items()}
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, [(name, value) for name, value in headers.items() if value is not None])
        await self.flush()
        return stream

    async def send(self, stream, data, *, end=False):
        self.h2.send_data(stream, data, end_stream=end)
        await self.flush()

    async def answer(self, stream):
        answer = Answer()
        async with asyncio.timeout(WAIT_SECONDS):
            while not answer.ended and answer.reset is None and not self.closed:
                data = await self._reader.read(65_536)
                self.closed = not data
                for event in self.h2.receive_data(data):
                    if isinstance(event, ConnectionTerminated):
                        self.closed = True
                    if getattr(event, "stream_id", None) == stream:
                        self._note(event, answer)
                await self.flush()
        return answer

    def _note(self, event, answer):
        match event:
            case ResponseReceived():
                answer.headers = dict(event.headers)
            case DataReceived():
                answer.body += event.data
                answer.data_frames += 1
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case TrailersReceived():
                answer.trailers = dict(event.headers)
            case StreamEnded():
                answer.ended = True
            case StreamReset():
                answer.reset = event.error_code

    async def close(self):
        self._writer.close()
        await self._writer.wait_closed()
