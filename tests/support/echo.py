"""A workload that answers with what it was asked."""

import asyncio
import json


async def echo(reader, writer):
    """Answer each request with its target and headers, as JSON."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            first, *lines = head.decode().strip().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines)
            await reader.readexactly(int(headers.get("content-length", "0")))
            body = json.dumps({"target": first.split(" ")[1], "headers": headers}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
            await writer.drain()
    except asyncio.IncompleteReadError:
        pass
    finally:
        writer.close()
