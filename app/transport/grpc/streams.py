"""The requests of a streaming call, and the answers of any call, over ASGI."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Self

from google.protobuf.message import DecodeError, Message

from app.core.errors import MeshwardError
from app.transport.grpc.context import CallContext
from app.transport.grpc.framing import FrameReader, frame
from app.transport.grpc.metadata import encode_metadata, error_trailers
from app.transport.grpc.status import Code, RpcError
from app.transport.grpc.supervision import Receive

Send = Callable[[dict[str, Any]], Awaitable[None]]

CONTENT_TYPE = (b"content-type", b"application/grpc")
ACCEPT_ENCODING = (b"grpc-accept-encoding", b"identity,gzip")
OK_TRAILERS: dict[str, Any] = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}
_START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": [CONTENT_TYPE], "trailers": True}
_END_OF_BODY: dict[str, Any] = {"type": "http.response.body", "body": b"", "more_body": False}


def decode(message_type: type[Message], payload: bytes) -> Message:
    """Return the message in `payload`. Raises RpcError INTERNAL if it is not one of `message_type`."""
    try:
        return message_type.FromString(payload)
    except DecodeError as error:
        raise RpcError(Code.INTERNAL, f"request is not a valid {message_type.DESCRIPTOR.full_name}") from error


class RequestStream(AsyncIterator[Message]):
    """The messages that a client streams, until it half-closes or the server drains."""

    def __init__(
        self, receive: Receive, reader: FrameReader, message_type: type[Message], drained: "asyncio.Future[None]"
    ) -> None:
        self._receive = receive
        self._reader = reader
        self._message_type = message_type
        self._drained = drained
        self._ready: deque[bytes] = deque()
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        while not self._ready:
            if self._ended:
                raise StopAsyncIteration
            await self._fill()
        return decode(self._message_type, self._ready.popleft())

    async def _fill(self) -> None:
        event = await self._next_event()
        if event is None:
            self._ended = True
            return
        if event["type"] == "http.disconnect":
            self._ended = True
            raise RpcError(Code.CANCELLED, "the client went away")
        self._ready.extend(self._reader.feed(event.get("body", b"")))
        if not event.get("more_body"):
            self._ended = True
            self._reader.close()

    async def _next_event(self) -> dict[str, Any] | None:
        """Return the next event, None once the server drains: open streams end as if the client had half-closed."""
        event = asyncio.create_task(self._event())
        waited_for: set[asyncio.Future[Any]] = {event, self._drained}
        try:
            await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
            return event.result() if event.done() else None
        finally:
            event.cancel()

    async def _event(self) -> Any:
        return await self._receive()


class ResponseStream:
    """What goes back: headers once, messages, then the status, as trailers or in the headers if nothing went before."""

    __slots__ = ("_context", "_send", "_started", "_trailers_only")

    def __init__(self, send: Send, context: CallContext, *, trailers_only: bool = True) -> None:
        self._send = send
        self._context = context
        self._trailers_only = trailers_only
        self._started = False

    async def message(self, payload: bytes) -> None:
        """Send one message of a stream, and the headers before the first."""
        await self._start()
        await self._send({"type": "http.response.body", "body": frame(payload), "more_body": True})

    async def only_message(self, payload: bytes) -> None:
        """Send the one message of a unary answer and end with OK."""
        await self._start()
        await self._send({"type": "http.response.body", "body": frame(payload), "more_body": False})
        await self._send(self._ok())

    async def finish(self) -> None:
        """End a stream with OK."""
        await self._start()
        await self._send(_END_OF_BODY)
        await self._send(self._ok())

    async def fail(self, code: Code, error: MeshwardError) -> None:
        """End the call with `code`, as trailers-only if nothing was sent yet (gRPC over HTTP/2, "Responses")."""
        trailers = [*error_trailers(code, error), *encode_metadata(self._context.trailing_metadata)]
        if self._trailers_only and not self._started:
            headers = [CONTENT_TYPE, ACCEPT_ENCODING, *trailers]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._send(_END_OF_BODY)
            return
        await self._start()
        await self._send(_END_OF_BODY)
        await self._send({"type": "http.response.trailers", "headers": trailers})

    async def _start(self) -> None:
        if self._started:
            return
        self._started = True
        if self._context.initial_metadata:
            headers = [CONTENT_TYPE, *encode_metadata(self._context.initial_metadata)]
            await self._send({**_START, "headers": headers})
        else:
            await self._send(_START)

    def _ok(self) -> dict[str, Any]:
        if not self._context.trailing_metadata:
            return OK_TRAILERS
        headers = [(b"grpc-status", b"0"), *encode_metadata(self._context.trailing_metadata)]
        return {"type": "http.response.trailers", "headers": headers}
