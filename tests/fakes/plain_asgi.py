"""The adapter that lets a server that does no more than the ASGI specification asks for serve the mesh application.

The application relies on what h2corn does (`GrpcApplication`); this does the same with what every server does.
"""

import asyncio
import contextlib

# The headers of a trailers-only response that stay headers where the server cannot send one.
RESPONSE_HEADERS = {b"content-type", b"grpc-accept-encoding"}


def like_h2corn(application):
    """Return `application` for a server that does no more than the specification asks for."""

    async def adapted(scope, receive, send):
        if scope["type"] != "http":
            await application(scope, receive, send)
            return
        exchange = _Exchange(receive, send)
        # A `client` of its own: only h2corn's stands for the connection.
        scope = {**scope, "client": scope.get("client") and [*scope["client"]]}
        call = asyncio.create_task(application(scope, exchange.receive, exchange.send))
        disconnect = asyncio.create_task(exchange.wait_disconnected())
        try:
            await asyncio.wait({call, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            disconnect.cancel()
            call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call

    return adapted


class _Exchange:
    def __init__(self, receive, send) -> None:
        self._receive, self._send = receive, send
        self._request_ended = asyncio.Event()
        self._disconnected = False
        self._trailers = []

    async def receive(self):
        event = await self._receive()
        self._disconnected = event["type"] == "http.disconnect"
        if self._disconnected or not event.get("more_body"):
            self._request_ended.set()
        return event

    async def send(self, event):
        """Send a trailers-only response as headers and trailers, and end no response before its request."""
        if event["type"] == "http.response.start":
            if any(name == b"grpc-status" for name, _ in event["headers"]):
                self._trailers = [header for header in event["headers"] if header[0] not in RESPONSE_HEADERS]
                headers = [header for header in event["headers"] if header[0] in RESPONSE_HEADERS]
                event = {**event, "headers": headers, "trailers": True}
        elif not event.get("more_body"):
            await self._discard_request()
        await self._send(event)
        if self._trailers and event["type"] == "http.response.body":
            await self._send({"type": "http.response.trailers", "headers": self._trailers})

    async def wait_disconnected(self) -> None:
        """Wait, once the request has been read, until the client disconnects or the response has been sent."""
        await self._request_ended.wait()
        while not self._disconnected:
            await self.receive()

    async def _discard_request(self) -> None:
        while not self._request_ended.is_set():
            await self.receive()
