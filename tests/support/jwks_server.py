"""A JWKS server on loopback that answers well, or does not."""

import asyncio
import gzip
from contextlib import asynccontextmanager

from tests.assets.jwts import jwks

CHUNK = b"x" * (64 << 10)


class JwksServer:
    """Answers each request as `behaviour` says: a function of the writer.

    `requests` are their first lines, `hosts` what they call the server.
    """

    def __init__(self) -> None:
        self.behaviour = answers(jwks())
        self.requests: list[str] = []
        self.hosts: list[str] = []
        self.port = 0
        self._stopping = asyncio.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/keys"

    @asynccontextmanager
    async def running(self, ssl=None):
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=ssl)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self._stopping.set()
            server.close()
            await server.wait_closed()

    async def _serve(self, reader, writer):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            self.requests.append(first)
            self.hosts += [line.partition(": ")[2] for line in lines if line.lower().startswith("host:")]
            behaving = asyncio.ensure_future(self.behaviour(writer))
            stopping = asyncio.ensure_future(self._stopping.wait())
            await asyncio.wait({behaving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            behaving.cancel()
            stopping.cancel()
            await asyncio.gather(behaving, stopping, return_exceptions=True)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def answers(content, status="200 OK", **headers):
    """Answer with the content."""
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(content)}", "connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]

    async def behave(writer):
        writer.write("\r\n".join([*lines, "", ""]).encode() + content)
        await writer.drain()

    return behave


def compressed(content):
    """Answer with a small content that becomes a large one."""
    return answers(gzip.compress(content), content_encoding="gzip")


async def hangs(_writer):
    """Never answer."""
    await asyncio.Event().wait()


async def trickles(writer):
    """Send a byte now and then, for ever."""
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


async def floods(writer):
    """Send for ever."""
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(CHUNK)
        await writer.drain()


async def closes(writer):
    """Close the connection in the middle of the answer."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")
    await writer.drain()


async def speaks_no_http(writer):
    """Answer with something that is not HTTP."""
    writer.write(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
    await writer.drain()
