"""One call over ASGI: its requests out of the body, its responses and its status, and its deadline."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterable
from contextlib import aclosing, asynccontextmanager
from time import monotonic
from typing import Any, Self, TypeVar

from google.protobuf.message import DecodeError, Message
from starlette.types import Receive, Scope, Send

from app.core.errors import DeadlineExceededError, InvalidInputError, MeshwardError
from app.spiffe.principal import ANONYMOUS, Principal
from app.transport.grpc import wire
from app.transport.grpc.connection import Connection
from app.transport.grpc.context import CallContext
from app.transport.grpc.routes import Prepared, Rpc, Soon
from app.transport.grpc.status import Code, RpcError

Result = TypeVar("Result")

# From the headers of a call to the end of its first message. Clients send both at once.
REQUEST_SECONDS = 10.0


class ClientDisconnectedError(RpcError):
    """The client has reset the call or closed its connection: nothing can be sent to it any more."""

    def __init__(self) -> None:
        super().__init__(Code.CANCELLED, "the client disconnected")


async def within_deadline(work: Awaitable[Result], deadline: float | None) -> Result:
    """Return what `work` returns. Raises DeadlineExceededError at `deadline` (the event loop's time)."""
    try:
        async with asyncio.timeout_at(deadline) as timeout:
            return await work
    except TimeoutError as error:
        if not timeout.expired():
            raise
        raise DeadlineExceededError("the call's deadline passed before the answer was ready") from error


@asynccontextmanager
async def request_arrives() -> AsyncIterator[None]:
    """Raise DeadlineExceededError if the block, which reads a call's first message, takes REQUEST_SECONDS."""
    try:
        async with asyncio.timeout(REQUEST_SECONDS) as timeout:
            yield
    except TimeoutError as error:
        if not timeout.expired():
            raise
        raise DeadlineExceededError(f"the request did not arrive within {REQUEST_SECONDS:g} seconds") from error


def reports_disconnect(send: Send) -> Send:
    """Return a `send` that raises ClientDisconnectedError where the server's raises OSError, as ASGI 2.4 has it."""

    async def checked(event: Any) -> None:
        try:
            await send(event)
        except OSError as error:
            raise ClientDisconnectedError from error

    return checked


def malformed_message(message_type: type[Message]) -> InvalidInputError:
    """Return the error of a request that cannot be parsed as `message_type`, or is nested too deeply to be."""
    return InvalidInputError(f"request is not a valid {message_type.DESCRIPTOR.full_name}")


class ReplayReceive:
    """A `receive` that repeats the events that were already received, then awaits `pending`, the one asked for."""

    def __init__(self, events: Iterable[Any], pending: Awaitable[Any] | None, receive: Receive) -> None:
        self._events = deque(events)
        self._pending = pending
        self._receive = receive

    async def __call__(self) -> Any:
        """Return the next event."""
        if self._events:
            return self._events.popleft()
        if self._pending is None:
            return await self._receive()
        pending, self._pending = self._pending, None
        return await pending


class RequestStream(AsyncIterator[Message]):
    """The messages that a client streams, until it half-closes or the server drains."""

    def __init__(self, receive: Receive, reader: wire.FrameReader, rpc: Rpc, drained: "asyncio.Future[None]") -> None:
        self._receive = receive
        self._reader = reader
        self._rpc = rpc
        self._drained = drained
        self._ready: deque[bytes] = deque()
        self._started = False
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        while not self._ready:
            if self._ended:
                raise StopAsyncIteration
            if self._started:
                await self._fill()
            else:
                async with request_arrives():
                    await self._fill()
        self._started = True
        message: Message = _decode(self._rpc, self._ready.popleft())
        return message

    async def _fill(self) -> None:
        event = await self._next_event()
        if event is None:
            self._ended = True
            return
        if event["type"] == "http.disconnect":
            self._ended = True
            raise ClientDisconnectedError
        self._ready.extend(self._reader.feed(event.get("body", b"")))
        if not event.get("more_body"):
            self._ended = True
            self._reader.close()

    async def _next_event(self) -> Any:
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


class Call(CallContext):
    """One HTTP exchange as a call, a CallContext to its handler: requests out of the body, response and status back."""

    # Defaults of the class: most calls never set them. `started`: something has been sent.
    encoding = wire.IDENTITY
    started = False

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, connection: Connection, principal: Principal = ANONYMOUS
    ) -> None:
        # As the base class does, without its frame: this is on the fast path.
        self.method = scope["path"]
        self.peer = connection.peer
        self.headers = scope["headers"]
        self.principal = principal
        self.connection = connection
        self._receive = receive
        self._send = send

    async def read_request(self, rpc: Rpc, reader: wire.FrameReader) -> Any:
        """Return the one message, UNIMPLEMENTED for more or none. Raises DeadlineExceededError if it is late."""
        messages: list[bytes] = []
        more = True
        async with request_arrives():
            while more and len(messages) <= 1:
                event = await self._receive()
                if event["type"] == "http.disconnect":
                    raise ClientDisconnectedError
                messages += reader.feed(event.get("body", b""))
                more = event.get("more_body", False)
        if not more:
            reader.close()
        if len(messages) != 1:
            raise RpcError(Code.UNIMPLEMENTED, "this method takes exactly one message")
        return _decode(rpc, messages[0])

    def requests(self, rpc: Rpc, reader: wire.FrameReader) -> RequestStream:
        """Return the messages that the client streams."""
        return RequestStream(self._receive, reader, rpc, self.connection.drain.streams)

    async def respond(self, response: Message | Prepared) -> None:
        """Send the one message of a response and end with OK."""
        if not self.started:
            self.started = True
            await self._send(wire.START)
        await self._send(response.event if isinstance(response, Prepared) else wire.message_event(response))
        await self._send(wire.OK_TRAILERS)

    async def complete(self, response: "Message | Prepared | Awaitable[Message | Prepared]") -> None:
        """Send what a unary handler returned, once it is there."""
        if type(response) is Soon and (self.deadline is None or monotonic() + response.seconds < self.deadline):
            response = await response.work
        elif not isinstance(response, Prepared | Message):
            response = await within_deadline(response, self.deadline)
        await self.respond(response)

    async def respond_all(self, responses: AsyncGenerator[Message, None]) -> None:
        """Send the messages of a stream as they come and end with OK."""
        async with aclosing(responses):
            async for response in responses:
                await self._start()
                body = wire.frame(response.SerializeToString())
                await self._send({"type": "http.response.body", "body": body, "more_body": True})
        await self._start()
        await self._send(wire.END_OF_BODY)
        await self._send(wire.OK_TRAILERS)

    async def fail(self, code: Code, error: MeshwardError, error_id: str = "") -> None:
        """End the call with `code`, as trailers-only if nothing was sent yet (PROTOCOL-HTTP2.md, "Responses").

        `error_id` is the id by which the log has the reason, if there is one.
        """
        trailers = wire.error_trailers(code, error, error_id)
        if self.started:
            await self._send(wire.END_OF_BODY)
            await self._send({"type": "http.response.trailers", "headers": trailers})
        else:
            headers = [wire.CONTENT_TYPE, wire.ACCEPT_ENCODING, *trailers]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._send(wire.END_OF_BODY)

    async def _start(self) -> None:
        if not self.started:
            self.started = True
            await self._send(wire.START)


def _decode(rpc: Rpc, payload: bytes) -> Any:
    try:
        return rpc.parse(payload)
    except DecodeError as error:
        raise malformed_message(rpc.request) from error
