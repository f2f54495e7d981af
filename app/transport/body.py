"""Reading the body of an HTTP request on the mesh ports, within bounds."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from app.core.errors import InvalidInputError

# From the first byte of the body to the last: the longest that a slow client can hold a request open.
BODY_TIMEOUT_SECONDS = 5.0

Receive = Callable[[], Awaitable[Mapping[str, Any]]]


async def read_body(receive: Receive, max_bytes: int) -> bytes:
    """Return the body of a request (ASGI 3).

    Raises InvalidInputError if it is longer than `max_bytes`, takes too long, or the client disconnects.
    """
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise InvalidInputError("the client disconnected before the body was complete")
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > max_bytes:
                    raise InvalidInputError(f"the body is longer than {max_bytes} bytes")
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError as error:
        raise InvalidInputError(f"the body took longer than {BODY_TIMEOUT_SECONDS:g} seconds") from error
