"""One call over ASGI: its requests, its responses, and its end by deadline, disconnect or drain."""

import asyncio
import types
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterable
from typing import Any, Self, TypeVar

from google.protobuf.message import DecodeError, Message

from app.core.errors import DeadlineExceededError, MeshwardError
from app.transport.grpc.asgi import Receive, Scope, Send
from app.transport.grpc.connection import Connection
from app.transport.grpc.context import CallContext
from app.transport.grpc.routes import Prepared, Rpc
from app.transport.grpc.status import Code, RpcError
from app.transport.grpc.wire import IDENTITY, FrameReader, Headers, encode_metadata, error_trailers, frame, only_message

Result = TypeVar("Result")
# Waits for the reason to end a call early, and returns it.
Watch = Callable[[], Coroutine[Any, Any, RpcError]]

GRPC = b"application/grpc"
CONTENT_TYPE = (b"content-type", GRPC)
ACCEPT_ENCODING = (b"grpc-accept-encoding", b"identity,gzip")
OK_TRAILERS: dict[str, Any] = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}
START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": [CONTENT_TYPE], "trailers": True}
_REQUEST = "http.request"
# How h2corn tells that a request ended after its last byte.
END: dict[str, Any] = {"type": _REQUEST}
_END_OF_BODY: dict[str, Any] = {"type": "http.response.body", "body": b"", "more_body": False}


def decode(message_type: type[Message], payload: bytes) -> Message:
    """Return the message in `payload`. Raises RpcError INTERNAL if it is not one of `message_type`."""
    try:
        return message_type.FromString(payload)
    except DecodeError as error:
        raise not_a(message_type) from error


def not_a(message_type: type[Message]) -> RpcError:
    """Return the error of a request that is no message of `message_type`."""
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


class Again:
    """The events of a request from its start, for whoever reads them after the first were looked at.

    `coming` is the one after those that were `seen`, if it was asked for already.
    """

    def __init__(self, seen: Iterable[Any], coming: Awaitable[Any] | None, receive: Receive) -> None:
        self._seen = deque(seen)
        self._coming = coming
        self._receive = receive

    async def __call__(self) -> Any:
        """Return the next event."""
        if self._seen:
            return self._seen.popleft()
        if self._coming is None:
            return await self._receive()
        coming, self._coming = self._coming, None
        return await coming


class Body:
    """The events of a request, on a server where a call has to know whether its request has ended."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._ended = asyncio.Event()

    async def __call__(self) -> Any:
        """Return the next event."""
        event = await self._receive()
        if event["type"] != _REQUEST or not event.get("more_body"):
            self._ended.set()
        return event

    async def discard(self) -> None:
        """Read the request to its end, unseen."""
        while not self._ended.is_set():
            await self()

    async def until_gone(self) -> None:
        """Wait, once the request has been read, until the client goes away."""
        await self._ended.wait()
        while (await self._receive())["type"] == _REQUEST:
            continue


class Call(CallContext):
    """One HTTP exchange as a call: its requests out of the body; headers once, messages and the status back.

    To its handler it is a CallContext.
    """

    # Defaults of the class: most calls never set them. `started`: something has been sent.
    encoding = IDENTITY
    started = False

    def __init__(self, scope: Scope, receive: Receive, send: Send, connection: Connection) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self.connection = connection

    @property
    def method(self) -> str:
        """The RPC's path, `/package.Service/Method`."""
        path: str = self._scope["path"]
        return path

    @property
    def peer(self) -> str:
        """The client's `address:port`, or `unix` for a Unix socket."""
        return self.connection.peer.address

    @property
    def headers(self) -> Headers:
        """The headers of the request, as they came."""
        headers: Headers = self._scope["headers"]
        return headers

    @property
    def tls(self) -> bool:
        """Whether the listener terminated TLS."""
        return self.connection.peer.tls

    async def unary(self, rpc: Rpc, max_bytes: int) -> None:
        """Read the one message of a request, give it to the handler, and send the one message of the answer."""
        request = await self.one_request(rpc.request, max_bytes)
        await self.only_answer(await rpc.answer(request, self))

    async def one_request(self, message_type: type[Message], max_bytes: int) -> Message:
        """Read the one message of a request (statuscodes.md: any other number is UNIMPLEMENTED)."""
        return decode(message_type, await self._one_payload(await self._receive(), max_bytes))

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
        return RequestStream(
            self._receive, FrameReader(self.encoding, max_bytes), message_type, self.connection.drain.streams
        )

    async def only_answer(self, answer: Message | Prepared) -> None:
        """Send the one message of an answer and end with OK."""
        send = self._send
        if self.plain:
            self.started = True
            await send(START)
        else:
            await self._start()
        await send(answer.event if type(answer) is Prepared else only_message(answer))
        await send(OK_TRAILERS if self.plain else self._ok())

    async def answer(self, payload: bytes) -> None:
        """Send one message of a stream, and the headers before the first."""
        await self._start()
        await self._send({"type": "http.response.body", "body": frame(payload), "more_body": True})

    async def finish(self) -> None:
        """End a stream with OK."""
        await self._start()
        await self._send(_END_OF_BODY)
        await self._send(self._ok())

    async def pass_over_request(self) -> None:
        """Read what is left of the request, unseen, on a server that cannot be answered before its end."""
        if isinstance(self._receive, Body) and not self.connection.server.answers_early:
            await self._receive.discard()

    async def fail(self, code: Code, error: MeshwardError) -> None:
        """End the call with `code`, as trailers-only if nothing was sent yet (gRPC over HTTP/2, "Responses")."""
        trailers = [*error_trailers(code, error), *encode_metadata(self.trailing_metadata)]
        await self.pass_over_request()
        if self.connection.server.trailers_only and not self.started:
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
        if isinstance(self._receive, Body) and not self.connection.server.cancels:
            await self._receive.until_gone()
        else:
            await asyncio.get_running_loop().create_future()
        return RpcError(Code.CANCELLED, "the client went away")

    async def until_gone_or_drained(self) -> RpcError:
        """Wait until the client goes away or the server drains; return the error that ends the stream."""
        gone = asyncio.create_task(self.until_gone())
        waited_for: set[asyncio.Future[Any]] = {gone, self.connection.drain.streams}
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
            await self._send({**START, "headers": headers})
        else:
            await self._send(START)

    def _ok(self) -> dict[str, Any]:
        if not self.trailing_metadata:
            return OK_TRAILERS
        headers = [(b"grpc-status", b"0"), *encode_metadata(self.trailing_metadata)]
        return {"type": "http.response.trailers", "headers": headers}


def _wrong_number(event: Any) -> RpcError:
    if event["type"] != _REQUEST:
        return RpcError(Code.CANCELLED, "the client went away")
    return RpcError(Code.UNIMPLEMENTED, "this method takes exactly one message")


async def guard(work: Awaitable[Result], watch: Watch, deadline: float | None) -> Result:
    """Await `work` and return what it returns.

    Raises DeadlineExceededError once `deadline` (the event loop's time) has passed, and the error that `watch` returns
    if it returns first.
    """
    caller = asyncio.current_task()
    watcher = asyncio.create_task(watch())
    ended_by: list[RpcError] = []

    def end(task: "asyncio.Task[RpcError]") -> None:
        if not task.cancelled() and caller is not None:
            ended_by.append(_verdict(task))
            caller.cancel()

    watcher.add_done_callback(end)
    try:
        async with within(deadline):
            return await work
    except asyncio.CancelledError:
        if not ended_by or caller is None or caller.uncancel():
            raise
        raise ended_by[0] from None
    finally:
        watcher.remove_done_callback(end)
        watcher.cancel()


class within:  # noqa: N801 - reads as the statement that it is: async with within(deadline)
    """An `async with` block that raises DeadlineExceededError once `deadline` (the event loop's time) has passed."""

    def __init__(self, deadline: float | None) -> None:
        self._timeout = asyncio.timeout_at(deadline)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, raised, trace)
        except TimeoutError as error:
            raise DeadlineExceededError("the call's deadline passed before the answer was ready") from error


def _verdict(watcher: "asyncio.Task[RpcError]") -> RpcError:
    if watcher.exception() is not None:
        return RpcError(Code.CANCELLED, "the connection failed")
    return watcher.result()


@types.coroutine
def resume(work: Coroutine[Any, Any, Result], waits_for: Any) -> Generator[Any, Any, Result]:
    """Go on with a coroutine that was started by hand and now waits for `waits_for`."""
    while True:
        advance: Callable[[Any], Any] = work.send
        try:
            argument = yield waits_for
        except BaseException as error:  # noqa: BLE001 - cancellation too belongs to the coroutine
            advance, argument = work.throw, error
        try:
            waits_for = advance(argument)
        except StopIteration as done:
            result: Result = done.value
            return result
