"""The requests of a streaming call, and the answers of any call, over ASGI."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from google.protobuf.message import DecodeError, Message

from app.core.errors import MeshwardError
from app.transport.grpc.context import CallContext
from app.transport.grpc.framing import HEADER_BYTES, IDENTITY, FrameReader, frame
from app.transport.grpc.metadata import encode_metadata, error_trailers
from app.transport.grpc.routes import Rpc
from app.transport.grpc.status import Code, RpcError
from app.transport.grpc.supervision import Receive

Send = Callable[[dict[str, Any]], Awaitable[None]]

CONTENT_TYPE = (b"content-type", b"application/grpc")
ACCEPT_ENCODING = (b"grpc-accept-encoding", b"identity,gzip")
OK_TRAILERS: dict[str, Any] = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}
_START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": [CONTENT_TYPE], "trailers": True}
_REQUEST, _BODY = "http.request", "http.response.body"
# How h2corn tells that a request ended after its last byte.
_END: dict[str, Any] = {"type": _REQUEST}
_END_OF_BODY: dict[str, Any] = {"type": "http.response.body", "body": b"", "more_body": False}


@dataclass(frozen=True, slots=True)
class ServerTraits:
    """How an ASGI server behaves where the specification leaves it open.

    `trailers_only`: headers that an empty body follows end the stream with them. `answers_early`: a call can be ended
    before its request has ended. `cancels`: the task of a call whose client went away is cancelled.
    """

    trailers_only: bool
    answers_early: bool
    cancels: bool


H2CORN = ServerTraits(trailers_only=True, answers_early=True, cancels=True)
PLAIN_ASGI = ServerTraits(trailers_only=False, answers_early=False, cancels=False)


def decode(message_type: type[Message], payload: bytes) -> Message:
    """Return the message in `payload`. Raises RpcError INTERNAL if it is not one of `message_type`."""
    try:
        return message_type.FromString(payload)
    except DecodeError as error:
        raise _not_a(message_type) from error


def _not_a(message_type: type[Message]) -> RpcError:
    return RpcError(Code.INTERNAL, f"request is not a valid {message_type.DESCRIPTOR.full_name}")


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


class _Body:
    """The events of a request, for a server that cannot be answered before the request has ended."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._ended = False

    async def __call__(self) -> Any:
        event = await self._receive()
        self._ended = event["type"] != _REQUEST or not event.get("more_body")
        return event

    async def discard(self) -> None:
        """Read the request to its end, unseen."""
        while not self._ended:
            await self()


class Call(CallContext):
    """One HTTP exchange as a call: its requests out of the body; headers once, messages and the status back.

    To its handler it is a CallContext.
    """

    # Defaults of the class: most calls never set them. `started`: something has been sent.
    encoding = IDENTITY
    started = False
    _read = False
    _until_read: asyncio.Event | None = None

    def __init__(
        self,
        scope: Mapping[str, Any],
        peer: str,
        receive: Receive,
        send: Send,
        drained: "asyncio.Future[None]",
        server: ServerTraits,
    ) -> None:
        self.method = scope["path"]
        self.peer = peer
        self._headers = scope["headers"]
        self._receive = receive if server.answers_early else _Body(receive)
        self._send = send
        self._drained = drained
        self._server = server

    async def unary(self, rpc: Rpc, max_bytes: int) -> None:
        """Read the one message of a request, give it to the handler, and send the one message of the answer.

        It is all in one place because nearly every call goes this way: one uncompressed message (whose prefix is its
        length in five bytes), whole, and the end of the stream with it or right after it.
        """
        event = await self._receive()
        body = event.get("body", b"")
        size = len(body) - HEADER_BYTES
        if 0 <= size <= max_bytes and body[:HEADER_BYTES] == size.to_bytes(HEADER_BYTES):
            if event.get("more_body"):
                event = await self._receive()
                if event != _END and (event["type"] != _REQUEST or event.get("body") or event.get("more_body")):
                    raise _wrong_number(event)
            payload = body[HEADER_BYTES:]
        else:
            payload = await self._one_payload(event, max_bytes)
        self._read = True
        if self._until_read is not None:
            self._until_read.set()
        try:
            request = rpc.request.FromString(payload)
        except DecodeError as error:
            raise _not_a(rpc.request) from error
        answer = (await rpc.handler(request, self)).SerializeToString()
        if self.plain:
            send, self.started = self._send, True
            await send(_START)
            await send({"type": _BODY, "body": b"\0" + len(answer).to_bytes(4) + answer, "more_body": False})
            await send(OK_TRAILERS)
        else:
            await self.only_answer(answer)

    async def one_request(self, message_type: type[Message], max_bytes: int) -> Message:
        """Read the one message of a request (statuscodes.md: any other number is UNIMPLEMENTED)."""
        payload = await self._one_payload(await self._receive(), max_bytes)
        self._read = True
        return decode(message_type, payload)

    async def _one_payload(self, event: Any, max_bytes: int) -> bytes:
        """Gather the one message of a request that came in pieces, compressed, or not at all."""
        reader = FrameReader(self.encoding, max_bytes)
        messages: list[bytes] = []
        while event["type"] == _REQUEST:
            messages += reader.feed(event.get("body", b""))
            if len(messages) > 1 or not event.get("more_body"):
                break
            event = await self._receive()
        if len(messages) <= 1 and event["type"] == _REQUEST:
            reader.close()
        if len(messages) != 1 or event["type"] != _REQUEST:
            raise _wrong_number(event)
        return messages[0]

    def requests(self, message_type: type[Message], max_bytes: int) -> RequestStream:
        """Return the messages that the client streams."""
        return RequestStream(self._receive, FrameReader(self.encoding, max_bytes), message_type, self._drained)

    async def only_answer(self, payload: bytes) -> None:
        """Send the one message of an answer and end with OK."""
        await self._start()
        await self._send({"type": _BODY, "body": frame(payload), "more_body": False})
        await self._send(self._ok())

    async def answer(self, payload: bytes) -> None:
        """Send one message of a stream, and the headers before the first."""
        await self._start()
        await self._send({"type": _BODY, "body": frame(payload), "more_body": True})

    async def finish(self) -> None:
        """End a stream with OK."""
        await self._start()
        await self._send(_END_OF_BODY)
        await self._send(self._ok())

    async def fail(self, code: Code, error: MeshwardError) -> None:
        """End the call with `code`, as trailers-only if nothing was sent yet (gRPC over HTTP/2, "Responses")."""
        trailers = [*error_trailers(code, error), *encode_metadata(self.trailing_metadata)]
        if isinstance(self._receive, _Body):
            await self._receive.discard()
        if self._server.trailers_only and not self.started:
            headers = [CONTENT_TYPE, ACCEPT_ENCODING, *trailers]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._send(_END_OF_BODY)
            return
        await self._start()
        await self._send(_END_OF_BODY)
        await self._send({"type": "http.response.trailers", "headers": trailers})

    async def until_gone(self) -> RpcError:
        """Wait, once the request has been read, until the client goes away; return the error that ends the call.

        Waits for ever on a server that cancels the call's task by itself.
        """
        if self._server.cancels:
            await asyncio.get_running_loop().create_future()
        if not self._read:
            self._until_read = asyncio.Event()
            await self._until_read.wait()
        while (await self._receive())["type"] == _REQUEST:
            continue
        return RpcError(Code.CANCELLED, "the client went away")

    async def until_gone_or_drained(self) -> RpcError:
        """Wait until the client goes away or the server drains; return the error that ends the stream."""
        gone = asyncio.create_task(self.until_gone())
        waited_for: set[asyncio.Future[Any]] = {gone, self._drained}
        try:
            await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
            return gone.result() if gone.done() else RpcError(Code.UNAVAILABLE, "the server drains: connect again")
        finally:
            gone.cancel()

    async def _start(self) -> None:
        if self.started:
            return
        self.started = True
        if self.initial_metadata:
            headers = [CONTENT_TYPE, *encode_metadata(self.initial_metadata)]
            await self._send({**_START, "headers": headers})
        else:
            await self._send(_START)

    def _ok(self) -> dict[str, Any]:
        if not self.trailing_metadata:
            return OK_TRAILERS
        headers = [(b"grpc-status", b"0"), *encode_metadata(self.trailing_metadata)]
        return {"type": "http.response.trailers", "headers": headers}


def _wrong_number(event: Any) -> RpcError:
    if event["type"] != _REQUEST:
        return RpcError(Code.CANCELLED, "the client went away")
    return RpcError(Code.UNIMPLEMENTED, "this method takes exactly one message")
