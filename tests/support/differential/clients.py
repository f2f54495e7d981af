"""Clients that write a request as it is, and wait until it is answered in some way."""

import asyncio
import ssl
import tempfile
from dataclasses import replace

from tests.support.differential.mesh import SET_HEADER
from tests.support.http2_request import client_connection, exchange

PAIR_HEADER = "x-pair"
WAIT_SECONDS = 60
_GONE = (OSError, asyncio.IncompleteReadError, ssl.SSLError)


class Client:
    """One peer's connection, opened again when the other side has closed it."""

    def __init__(self, peer, port, certificates):
        self._peer, self._port = peer, port
        self._tls = _context(peer, certificates) if peer.listener == "mtls" else None
        self._reader = self._writer = self._h2 = None

    async def send(self, number, pair, request):
        """Send the request to the workload of that number. What answers, and how, is not looked at."""
        marks = ((SET_HEADER, str(number).encode()), (PAIR_HEADER, str(pair).encode()))
        request = replace(request, headers=(*marks, *request.headers))
        for attempt in range(2):
            is_new = self._writer is None
            try:
                if is_new:
                    await self._connect()
                async with asyncio.timeout(WAIT_SECONDS):
                    await (self._send_2 if self._peer.http2 else self._send_1)(request)
            except _GONE:
                await self.close()
                if is_new or attempt:
                    return
            else:
                return

    async def _connect(self):
        self._reader, self._writer = await connected(self._peer, self._port, self._tls)
        if self._peer.http2:
            self._h2 = client_connection()

    async def _send_1(self, request):
        lines = [
            f"{request.method} {request.target} HTTP/1.1".encode("latin-1"),
            b"Host: " + request.host.encode(),
            *(name.encode() + b": " + value for name, value in request.headers),
        ]
        self._writer.write(b"\r\n".join([*lines, b"", b""]))
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = head.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0]
        if length and request.method != "HEAD":
            await self._reader.readexactly(int(length))
        if b"\r\nconnection: close" in head:
            await self.close()

    async def _send_2(self, request):
        headers = [
            (b":method", request.method.encode()),
            (b":scheme", b"http"),
            (b":authority", request.host.encode()),
            (b":path", request.target.encode("latin-1")),
            *((name.lower().encode(), value) for name, value in request.headers),
        ]
        await exchange(self._h2, self._reader, self._writer, headers)

    async def close(self):
        """Close the connection, if there is one."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


async def connected(peer, port, tls):
    """A connection of the peer: reader and writer."""
    name = {"server_hostname": peer.server_name} if tls is not None else {}
    return await asyncio.open_connection(
        "127.0.0.1", port, ssl=tls, local_addr=(peer.address, 0), limit=1 << 20, **name
    )


async def touch(peer, port, certificates):
    """Open a connection, send a few bytes over it, and wait until they come back or it is closed.

    Returns the address that it came from.
    """
    name = None
    tls = None if peer.certificate == "plaintext" else _context(peer, certificates)
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            reader, writer = await connected(peer, port, tls)
            name = writer.get_extra_info("sockname")
            writer.write(b"hello")
            await reader.read(5)
            writer.close()
    except _GONE:
        pass
    return name


def _context(peer, certificates):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=certificates.roots)
    context.set_alpn_protocols(["h2" if peer.http2 else "http/1.1"])
    if peer.certificate:
        with tempfile.NamedTemporaryFile() as file:
            file.write("".join(certificates.peers[peer.certificate]).encode())
            file.flush()
            context.load_cert_chain(file.name)
    return context
