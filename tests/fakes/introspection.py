"""The introspection endpoint of an authorization server, in memory and over HTTP."""

import asyncio
import json
import ssl
from contextlib import asynccontextmanager, suppress
from urllib.parse import parse_qs

from app.authz.ports import IntrospectionEndpoint

CHUNK = b" " * (16 << 10)


class FakeEndpoint(IntrospectionEndpoint):
    """Answers with the claims, the bytes or the error of a token once `let_go` is; `asked` are the tokens."""

    def __init__(self, **answers):
        self.answers, self.asked = answers, []
        self.let_go = asyncio.Event()
        self.let_go.set()

    async def introspect(self, token, /):
        self.asked.append(token)
        await self.let_go.wait()
        answer = self.answers.get(token, {"active": False})
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, bytes) else json.dumps({"active": True} | answer).encode()

    async def close(self):
        """Close nothing."""


class IntrospectionServer:
    """Answers `content` with `status` to each request, or as `behaviour` says: a function of the writer.

    `requests` are the head and the form of each; `connections` how many there were.
    """

    def __init__(self):
        self.content, self.status, self.behaviour = b'{"active": true, "sub": "alice"}', "200 OK", None
        self.requests, self.connections, self.port = [], 0, 0
        self._serving = set()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/introspect"

    @asynccontextmanager
    async def running(self, context=None):
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in tuple(self._serving):
                task.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)
            await server.wait_closed()

    async def _serve(self, reader, writer):
        self.connections += 1
        task = asyncio.current_task()
        self._serving.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._answer_all(reader, writer)
            writer.transport.abort()
            with suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()
        finally:
            self._serving.discard(task)

    async def _answer_all(self, reader, writer):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            lines = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
            headers = {name.lower(): value for name, value in lines.items()}
            body = (await reader.readexactly(int(headers["content-length"]))).decode()
            self.requests.append((headers | {"": head.split("\r\n")[0]}, parse_qs(body)))
            if self.behaviour is not None:
                await self.behaviour(writer)
                return
            head = f"HTTP/1.1 {self.status}\r\ncontent-length: {len(self.content)}\r\n\r\n"
            writer.write(head.encode() + self.content)
            await writer.drain()


async def hangs(_writer):
    """Answer nothing."""
    await asyncio.Event().wait()


async def trickles(writer):
    """Answer a byte now and then, without end."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.01)


async def floods(writer):
    """Answer without end."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
    while True:
        writer.write(CHUNK)
        await writer.drain()


async def closes(_writer):
    """Close the connection."""


async def speaks_no_http(writer):
    """Answer something that is not HTTP."""
    writer.write(b"\x00\xff" * 10 + b"\r\n\r\n")
    await writer.drain()
