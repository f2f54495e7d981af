"""The ASGI application that answers RPCs out of the route table."""

import math
from bisect import bisect_left
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping
from contextlib import aclosing
from time import monotonic
from typing import Any

import structlog
from google.protobuf.message import DecodeError, Message

from app.core.errors import InternalError, MeshwardError
from app.spiffe.principal import ANONYMOUS
from app.telemetry.families import LATENCY_BUCKETS
from app.telemetry.metrics import Metrics
from app.transport.grpc.admission import Authenticator, RateLimiter
from app.transport.grpc.asgi import H2CORN, NOT_THERE_YET, Application, Receive, Scope, Send, ServerTraits
from app.transport.grpc.call import (
    CONTENT_TYPE,
    END,
    GRPC,
    OK_TRAILERS,
    START,
    Again,
    Body,
    Call,
    guard,
    not_a,
    resume,
    within,
)
from app.transport.grpc.connection import Admission, Connection, Connections, Drain
from app.transport.grpc.peer import read_peer
from app.transport.grpc.routes import Kind, Prepared, Rpc, Served, route_table, served
from app.transport.grpc.status import Code, RpcError, code_of
from app.transport.grpc.wire import DEFAULT_MAX_MESSAGE_BYTES, ENCODINGS, HEADER_BYTES, only_message, time_budget

# How long a call that is not a stream may take when its client sets no deadline, or a longer one.
MAX_UNARY_SECONDS = 60.0
# Clients that never say `te: trailers` cannot be given a status after a message.
TRAILERS = "http.response.trailers"
# The bucket of most calls.
SHORTEST = LATENCY_BUCKETS[0]
UNKNOWN_METHOD = "unknown"
# How much of an unknown path is repeated to the caller.
MAX_PATH_IN_MESSAGE = 256

log = structlog.get_logger(__name__)
Run = Callable[[Rpc, Call], Coroutine[Any, Any, None]]


class GrpcApplication:
    """Serves the rows of `rpcs`, and nothing else.

    A call is answered only after the table's authentication and rate limit have admitted it. Every error becomes a
    status; an exception that is not a MeshwardError is logged and becomes INTERNAL without its text. `server` says what
    the ASGI server that calls it does.
    """

    def __init__(
        self,
        rpcs: Iterable[Rpc],
        *,
        authenticator: Authenticator,
        limiter: RateLimiter,
        metrics: Metrics,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        server: ServerTraits = H2CORN,
    ) -> None:
        self.table = route_table(rpcs)
        self._authenticator = authenticator
        self._limiter = limiter
        self._metrics = metrics
        self._max_message_bytes = max_message_bytes
        self._server = server
        # A server whose calls end with their connections, and at any time, is not watched.
        self._ends_itself = server.answers_early and server.cancels
        self._streams: dict[Kind, Run] = {
            Kind.SERVER_STREAM: self._server_stream,
            Kind.CLIENT_STREAM: self._client_stream,
            Kind.BIDI_STREAM: self._bidi_stream,
        }
        self._served = {path: served(rpc, metrics) for path, rpc in self.table.items()}

    def serve(self, drain: Drain, otherwise: Application) -> Application:
        """Return the ASGI application that answers calls of the table, and gives `otherwise` every other request.

        `drain` tells when open streams and connections have to end.
        """
        connections = Connections(self._server, drain)
        known, expired, max_bytes = connections.known, self._authenticator.expired, self._max_message_bytes

        # The hot path: a call of a known connection that is answered at once. It stays in one frame, because each
        # further one costs 2% of a call.
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            began = monotonic()
            connection = known.get(id(scope.get("client")))
            if connection is None:
                await connections.first(application, scope, receive, send)
                return
            admission = connection.admitted.get(scope.get("path", ""))
            headers = dict(scope["headers"])
            coming: Any = None
            end: Any = END
            if (
                admission is None
                or headers.get(b"content-type") != GRPC
                or b"grpc-encoding" in headers
                or TRAILERS not in scope["extensions"]
                or (admission.not_after is not None and expired(admission.not_after))
                # Only what is there already is awaited here, where no deadline ends it.
                or hasattr(coming := receive(), NOT_THERE_YET)
            ):
                rest = receive if coming is None else Again((), coming, receive)
                await self._answer(scope, rest, send, connection, began, otherwise)
                return
            row = admission.row
            call = Call(scope, receive, send, connection)
            call.principal = admission.principal
            try:
                call.deadline = began + time_budget(headers.get(b"grpc-timeout"), MAX_UNARY_SECONDS)
                event = await coming
                body = event.get("body", b"")
                # One message, uncompressed, is its length in five bytes and what follows them; and then nothing.
                size = len(body) - HEADER_BYTES
                whole = int.from_bytes(body[:HEADER_BYTES]) == size <= max_bytes
                if whole and event.get("more_body"):
                    coming = receive()
                    end = None if hasattr(coming, NOT_THERE_YET) else await coming
                if whole and end == END:
                    try:
                        request = row.parse(body[HEADER_BYTES:])
                    except DecodeError as error:
                        raise not_a(row.rpc.request) from error
                    answer = row.handler(request, call)
                    if call.plain:
                        call.started = True
                        await send(START)
                        await send(answer.event if type(answer) is Prepared else only_message(answer))
                        await send(OK_TRAILERS)
                    else:
                        await call.only_answer(answer)
            except BaseException as error:  # noqa: BLE001 - raised again there if it is not for the client
                await self._failed(call, row, began, error)
                return
            if not call.started:
                seen = (event,) if end is None or end is END else (event, end)
                rest = Again(seen, coming if end is None else None, receive)
                await self._answer(scope, rest, send, connection, began, otherwise)
                return
            row.ok.count += 1
            took = monotonic() - began
            row.seconds.counts[0 if took <= SHORTEST else bisect_left(LATENCY_BUCKETS, took)] += 1
            row.seconds.sum += took

        return application

    async def _answer(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        connection: Connection,
        began: float,
        otherwise: Application,
    ) -> None:
        """Answer a call that has to be admitted, waits, streams, or comes in pieces."""
        row = self._served.get(scope.get("path", ""))
        if row is None or CONTENT_TYPE not in scope["headers"]:
            await otherwise(scope, self._watched(receive), send)
            return
        call = Call(scope, self._watched(receive), send, connection)
        try:
            await self._admit(row, call, scope, began)
            await self._run(row.rpc, call)
        except BaseException as error:  # noqa: BLE001 - raised again there if it is not for the client
            await self._failed(call, row, began, error)
            return
        row.ok.count += 1
        row.seconds.observe(monotonic() - began)

    def _watched(self, receive: Receive) -> Receive:
        return receive if self._ends_itself else Body(receive)

    async def _run(self, rpc: Rpc, call: Call) -> None:
        if rpc.kind is not Kind.UNARY:
            await self._streams[rpc.kind](rpc, call)
            return
        # Most unary calls wait for nothing. They are run to their end on the spot; a timer and a watcher are made only
        # for one that does wait, because the two would cost more than all the rest of the call.
        work = call.unary(rpc, self._max_message_bytes)
        try:
            waits_for = work.send(None)
        except StopIteration:
            return
        await guard(resume(work, waits_for), call.until_gone, call.deadline)

    async def _failed(self, call: Call, row: Served, began: float, error: BaseException) -> None:
        """End and count a call that failed. Raises `error` itself if it is not for the client to know."""
        path, rpcs = row.rpc.path, self._metrics.rpcs
        try:
            if isinstance(error, MeshwardError):
                rpcs.add(await _end(call, row.rpc, error))
            elif isinstance(error, Exception):
                log.error("rpc_failed", method=path, peer=call.peer, request_id=call.request_id, exc_info=error)
                hidden = InternalError(f"internal fault; the log tells more under {call.request_id}")
                rpcs.add(await _end(call, row.rpc, hidden))
            else:
                rpcs.add((path, Code.CANCELLED.name))
                raise error
        finally:
            row.seconds.observe(monotonic() - began)

    async def refuse(self, scope: Scope, receive: Receive, send: Send, drain: Drain) -> None:
        """Answer a gRPC request for a method that is not in the table: UNIMPLEMENTED."""
        connection = Connection(read_peer(scope), self._server, drain)
        call = Call(scope, self._watched(receive), send, connection)
        error = RpcError(Code.UNIMPLEMENTED, f"there is no method {call.method[:MAX_PATH_IN_MESSAGE]} here")
        self._metrics.rpcs.add(await _refuse(call, UNKNOWN_METHOD, error))

    async def _admit(self, row: Served, call: Call, scope: Scope, began: float) -> None:
        """Give the call its encoding, its time and its caller, and remember the caller if the connection proves it.

        Raises RpcError, ResourceExhaustedError or UnauthenticatedError with the reason.
        """
        peer, rpc = call.connection.peer, row.rpc
        headers = dict(scope["headers"])
        call.encoding = _encoding(headers, scope)
        given = headers.get(b"grpc-timeout")
        if rpc.kind is Kind.UNARY or given is not None:
            call.deadline = began + time_budget(given, MAX_UNARY_SECONDS if rpc.kind is Kind.UNARY else math.inf)
        if rpc.rate_limit is not None:
            svid = peer.svid.spiffe_id if peer.svid else None
            key = str(svid) if svid else peer.address.rpartition(":")[0]
            self._limiter.admit(rpc.path, key, rpc.rate_limit)
        caller = self._authenticator.at_once(rpc.authentication, peer)
        if caller is None:
            async with within(call.deadline):
                call.principal = await self._authenticator.attest(call)
            return
        call.principal = caller
        if row.at_once and self._ends_itself:
            not_after = peer.svid.not_after if peer.svid is not None else None
            call.connection.admitted[rpc.path] = Admission(row, caller, not_after)

    async def _server_stream(self, rpc: Rpc, call: Call) -> None:
        async with within(call.deadline):
            request = await call.one_request(rpc.request, self._max_message_bytes)
        answers = _send_all(rpc.handler(request, call), call)
        await guard(answers, call.until_gone_or_drained, call.deadline)
        await call.finish()

    async def _client_stream(self, rpc: Rpc, call: Call) -> None:
        requests = call.requests(rpc.request, self._max_message_bytes)
        async with within(call.deadline):
            answer = await rpc.handler(requests, call)
        await call.only_answer(answer)

    async def _bidi_stream(self, rpc: Rpc, call: Call) -> None:
        requests = call.requests(rpc.request, self._max_message_bytes)
        async with within(call.deadline):
            await _send_all(rpc.handler(requests, call), call)
        await call.finish()


async def _send_all(answers: AsyncGenerator[Message, None], call: Call) -> None:
    async with aclosing(answers):
        async for answer in answers:
            await call.answer(answer.SerializeToString())


async def _end(call: Call, rpc: Rpc, error: MeshwardError) -> tuple[str, str]:
    """End a call that failed with what its row answers instead of an error, if it may; return its labels."""
    if rpc.instead_of_error is None or call.principal is ANONYMOUS or call.started or code_of(error) is Code.CANCELLED:
        return await _refuse(call, rpc.path, error)
    await call.pass_over_request()
    await call.only_answer(rpc.instead_of_error(error))
    return rpc.path, code_of(error).name


async def _refuse(call: Call, method: str, error: MeshwardError) -> tuple[str, str]:
    """End the call with the error's status; return its labels for the metrics."""
    code = code_of(error)
    log.debug(
        "rpc_refused",
        method=call.method,
        peer=call.peer,
        code=code.name,
        reason=error.message,
        request_id=call.request_id,
    )
    await call.fail(code, error)
    return method, code.name


def _encoding(headers: Mapping[bytes, bytes], scope: Scope) -> str:
    """Return the request's compression (compression.md: one that is not supported is UNIMPLEMENTED).

    Raises RpcError INTERNAL if the status of the answer could not be sent.
    """
    if TRAILERS not in scope["extensions"]:
        raise RpcError(Code.INTERNAL, "gRPC needs the request header 'te: trailers'")
    name = headers.get(b"grpc-encoding", b"identity").decode("latin-1")
    if name not in ENCODINGS:
        raise RpcError(Code.UNIMPLEMENTED, f"grpc-encoding {name[:64]!r} is not supported: use identity or gzip")
    return name
