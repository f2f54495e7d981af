"""A workload behind a sidecar that tells what reached it."""

import asyncio
import json
from contextlib import asynccontextmanager


@asynccontextmanager
async def workload():
    """A server that answers with the request that it got: the target, and the headers in their order."""

    async def answer(reader, writer):
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                target, *lines = head.decode("latin-1").split("\r\n")[:-2]
                body = json.dumps([target, sorted(line.partition(": ") for line in lines)]).encode()
                method_has_body = not target.startswith("HEAD")
                writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n".encode())
                writer.write(body if method_has_body else b"")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()
