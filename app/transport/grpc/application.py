"""The ASGI application that answers RPCs out of the route table."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import structlog
from google.protobuf.message import Message

from app.core.errors import InternalError, MeshwardError
from app.telemetry.metrics import Metrics
from app.transport.grpc.authentication import Authenticator
from app.transport.grpc.context import CallContext
from app.transport.grpc.framing import DEFAULT_MAX_MESSAGE_BYTES, ENCODINGS, HEADER_BYTES, IDENTITY, FrameReader
from app.transport.grpc.limits import RateLimiter
from app.transport.grpc.metadata import parse_timeout
from app.transport.grpc.peer import Peer, read_peer
from app.transport.grpc.routes import Kind, Rpc, route_table
from app.transport.grpc.status import Code, RpcError, code_of
from app.transport.grpc.streams import RequestStream, ResponseStream, Send, decode
from app.transport.grpc.supervision import Receive, guard, supervise, within

# How long a call that is not a stream may take when its client sets no deadline, or a longer one.
MAX_UNARY_SECONDS = 60.0
# Clients that never say `te: trailers` cannot be given a status after a message.
_TRAILERS = "http.response.trailers"
UNKNOWN_METHOD = "unknown"
# How much of an unknown path is repeated to the caller.
MAX_PATH_IN_MESSAGE = 256

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Call:
    """One RPC on its way through the application."""

    rpc: Rpc
    encoding: str
    receive: Receive
    context: CallContext
    response: ResponseStream
    drained: "asyncio.Future[None]"


class GrpcApplication:
    """Serves the rows of `rpcs`, and nothing else.

    A call is answered only after the table's authentication and rate limit have admitted it. Every error becomes a
    status; an exception that is not a MeshwardError is logged and becomes INTERNAL without its text. `trailers_only` is
    for servers that end the stream with the headers when an empty body follows them; others get headers and trailers.
    """

    def __init__(
        self,
        rpcs: Iterable[Rpc],
        *,
        authenticator: Authenticator,
        limiter: RateLimiter,
        metrics: Metrics,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        trailers_only: bool = True,
    ) -> None:
        self.table = route_table(rpcs)
        self._authenticator = authenticator
        self._limiter = limiter
        self._metrics = metrics
        self._max_message_bytes = max_message_bytes
        self._trailers_only = trailers_only
        self._run: dict[Kind, Callable[[Call], Awaitable[None]]] = {
            Kind.UNARY: self._unary,
            Kind.SERVER_STREAM: self._server_stream,
            Kind.CLIENT_STREAM: self._client_stream,
            Kind.BIDI_STREAM: self._bidi_stream,
        }

    async def __call__(
        self, scope: Mapping[str, Any], receive: Receive, send: Send, drained: "asyncio.Future[None]"
    ) -> None:
        """Answer one gRPC request; `drained` is done once open streams have to end."""
        started = perf_counter()
        path = scope["path"]
        rpc = self.table.get(path)
        peer = read_peer(scope)
        raw_headers = scope["headers"]
        headers = dict(raw_headers)
        context = CallContext(path, peer.address, headers=raw_headers, tls=peer.tls, client_chain=peer.chain)
        response = ResponseStream(send, context, trailers_only=self._trailers_only)
        code = Code.OK
        try:
            call = Call(_known(rpc, scope), _encoding(headers), receive, context, response, drained)
            context.deadline = _deadline(headers.get(b"grpc-timeout"), call.rpc.kind)
            await self._admit(call.rpc, context, peer)
            await self._run[call.rpc.kind](call)
        except MeshwardError as error:
            code = code_of(error)
            await self._fail(response, context, code, error)
        except asyncio.CancelledError:
            code = Code.CANCELLED
            raise
        except Exception:
            code = Code.INTERNAL
            log.exception("rpc_failed", method=path, peer=peer.address, request_id=context.request_id)
            await response.fail(code, InternalError(f"internal fault; the log tells more under {context.request_id}"))
        finally:
            method = path if rpc is not None else UNKNOWN_METHOD
            self._metrics.rpcs.add((method, code._name_))
            self._metrics.rpc_seconds.observe((method,), perf_counter() - started)

    async def _fail(self, response: ResponseStream, context: CallContext, code: Code, error: MeshwardError) -> None:
        log.debug(
            "rpc_refused",
            method=context.method,
            peer=context.peer,
            code=code.name,
            reason=error.message,
            request_id=context.request_id,
        )
        await response.fail(code, error)

    async def _admit(self, rpc: Rpc, context: CallContext, peer: Peer) -> None:
        if peer.svid is not None:
            context.peer_id = peer.svid.spiffe_id
        if rpc.rate_limit is not None:
            key = str(context.peer_id) if context.peer_id else peer.address.rpartition(":")[0]
            self._limiter.admit(rpc.path, key, rpc.rate_limit)
        caller = self._authenticator.at_once(rpc.authentication, peer)
        if caller is None:
            async with within(context.deadline):
                caller = await self._authenticator.by_token(context)
        context.caller = caller

    async def _unary(self, call: Call) -> None:
        request = await self._one_request(call)
        answer: Message = await supervise(
            call.rpc.handler(request, call.context),
            call.receive,
            call.context.deadline,
            call.drained,
        )
        await call.response.only_message(answer.SerializeToString())

    async def _server_stream(self, call: Call) -> None:
        request = await self._one_request(call)
        await guard(self._send_all(call, request), call.receive, call.context.deadline, call.drained)
        await call.response.finish()

    async def _client_stream(self, call: Call) -> None:
        async with within(call.context.deadline):
            answer = await call.rpc.handler(self._requests(call), call.context)
        await call.response.only_message(answer.SerializeToString())

    async def _bidi_stream(self, call: Call) -> None:
        async with within(call.context.deadline):
            await self._send_all(call, self._requests(call))
        await call.response.finish()

    async def _send_all(self, call: Call, requests: Message | AsyncIterator[Message]) -> None:
        async with aclosing(call.rpc.handler(requests, call.context)) as answers:
            async for answer in answers:
                await call.response.message(answer.SerializeToString())

    def _requests(self, call: Call) -> RequestStream:
        return RequestStream(call.receive, self._reader(call), call.rpc.request, call.drained)

    async def _one_request(self, call: Call) -> Message:
        """Read the one message of a request (statuscodes.md: any other number is UNIMPLEMENTED)."""
        event = await call.receive()
        body = event.get("body", b"")
        if not event.get("more_body") and self._is_whole_frame(body):
            return decode(call.rpc.request, body[HEADER_BYTES:])
        reader = self._reader(call)
        messages: list[bytes] = []
        async with within(call.context.deadline):
            while event["type"] == "http.request":
                messages += reader.feed(event.get("body", b""))
                if len(messages) > 1 or not event.get("more_body"):
                    break
                event = await call.receive()
            else:
                raise RpcError(Code.CANCELLED, "the client went away")
        if len(messages) != 1:
            reader.close()
            raise RpcError(Code.UNIMPLEMENTED, "this method takes exactly one message")
        reader.close()
        return decode(call.rpc.request, messages[0])

    def _is_whole_frame(self, body: bytes) -> bool:
        """Whether `body` is exactly one uncompressed message within the limit: the shape of nearly every call."""
        length = len(body) - HEADER_BYTES
        return (
            0 <= length <= self._max_message_bytes and body[0] == 0 and int.from_bytes(body[1:HEADER_BYTES]) == length
        )

    def _reader(self, call: Call) -> FrameReader:
        return FrameReader(call.encoding, self._max_message_bytes)


def _known(rpc: Rpc | None, scope: Mapping[str, Any]) -> Rpc:
    if rpc is None:
        raise RpcError(Code.UNIMPLEMENTED, f"there is no method {scope['path'][:MAX_PATH_IN_MESSAGE]} here")
    if _TRAILERS not in scope["extensions"]:
        raise RpcError(Code.INTERNAL, "gRPC needs the request header 'te: trailers'")
    return rpc


def _encoding(headers: Mapping[bytes, bytes]) -> str:
    """Return the request's compression (compression.md: one that is not supported is UNIMPLEMENTED)."""
    encoding = headers.get(b"grpc-encoding")
    if encoding is None:
        return IDENTITY
    name = encoding.decode("latin-1")
    if name not in ENCODINGS:
        raise RpcError(Code.UNIMPLEMENTED, f"grpc-encoding {name[:64]!r} is not supported: use identity or gzip")
    return name


def _deadline(timeout: bytes | None, kind: Kind) -> float | None:
    """Return the event loop's time at which the call ends, None for a stream without a deadline."""
    if timeout is None:
        seconds = MAX_UNARY_SECONDS if kind is Kind.UNARY else None
    else:
        seconds = parse_timeout(timeout)
        if kind is Kind.UNARY:
            seconds = min(seconds, MAX_UNARY_SECONDS)
    return None if seconds is None else asyncio.get_running_loop().time() + seconds
