"""The ASGI application that serves the RPCs of the route table."""

import math
from bisect import bisect_left
from collections.abc import Iterable
from contextlib import suppress
from secrets import token_hex
from time import monotonic
from typing import Any

import structlog
from google.protobuf.message import DecodeError, Message
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.errors import InternalError, MeshwardError
from app.spiffe.principal import ANONYMOUS
from app.telemetry.families import LATENCY_BUCKETS
from app.telemetry.metrics import Metrics
from app.transport.grpc import wire
from app.transport.grpc.admission import Authenticator, OpenStreams, RateLimiter
from app.transport.grpc.call import (
    Call,
    ClientDisconnectedError,
    ReplayReceive,
    malformed_message,
    reports_disconnect,
    within_deadline,
)
from app.transport.grpc.connection import Admission, Connection, Connections, Drain, interrupt
from app.transport.grpc.peer import read_peer
from app.transport.grpc.routes import BoundRpc, Kind, Prepared, Rpc, bind, route_table
from app.transport.grpc.status import Code, RpcError, code_of
from app.transport.grpc.wire import CONTENT_TYPE_GRPC, OK_TRAILERS, PREFIX_BYTES, START, call_seconds, message_event

# How long a unary call may take when its client sets no deadline, or a longer one.
MAX_UNARY_SECONDS = 60.0
# The server offers it if the request has `te: trailers`; without it no status can follow a message.
TRAILERS = "http.response.trailers"
# The event with which h2corn ends a request after its last byte.
END_OF_REQUEST = {"type": "http.request"}
# An attribute of what h2corn's `receive()` returns while the event is yet to come; an event that is there has it not.
PENDING = "add_done_callback"
# The bucket of most calls.
SHORTEST = LATENCY_BUCKETS[0]
UNKNOWN_METHOD = "unknown"
# In metrics and logs, where a call was refused.
SURFACE = "grpc"
# Short enough to read out to support, and unique within a log.
ERROR_ID_BYTES = 6
# How much of an unknown path is repeated to the caller.
MAX_PATH_IN_MESSAGE = 256

log = structlog.get_logger(__name__)


class GrpcApplication:
    """Serves the rows of `rpcs`, and nothing else.

    A call is answered only after the table's authentication and rate limit have admitted it. Every error becomes a
    status; an exception that is not a MeshwardError is logged and becomes INTERNAL without its text.

    It relies on what h2corn does where the ASGI specification leaves servers free: the requests of a connection share
    one `client` object; a response may end before its request; headers that an empty body follows end the stream as
    trailers-only; and a call whose client disconnects is cancelled, unless it waits in `receive`.
    """

    def __init__(
        self,
        rpcs: Iterable[Rpc],
        *,
        authenticator: Authenticator,
        limiter: RateLimiter,
        metrics: Metrics,
        streams: OpenStreams | None = None,
        max_message_bytes: int = wire.DEFAULT_MAX_MESSAGE_BYTES,
    ) -> None:
        self.table = route_table(rpcs)
        self._authenticator = authenticator
        self._limiter = limiter
        self._streams = streams or OpenStreams()
        self._metrics = metrics
        self.refusals = metrics.refusals
        self._max_message_bytes = max_message_bytes
        self.budget = wire.BufferBudget()
        self._bound = {path: bind(rpc, metrics) for path, rpc in self.table.items()}

    def serve(self, connections: Connections, fallback: ASGIApp) -> ASGIApp:
        """Return the application that answers calls on `connections`, and passes what is not one to `fallback`."""
        by_client, expired, max_bytes = connections.by_client, self._authenticator.expired, self._max_message_bytes
        bans_changed = self._authenticator.bans.changed

        # The fast path: a unary call that its connection admits. It stays in one frame, because each further one costs
        # 2% of a call.
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            began = monotonic()
            connection = by_client.get(id(scope.get("client")))
            if connection is None:
                await connections.serve_first(application, scope, receive, send)
                return
            admission = connection.admitted.get(scope.get("path", ""))
            headers = dict(scope["headers"])
            pending: Any = None
            end: Any = END_OF_REQUEST
            if (
                admission is None
                or headers.get(b"content-type") != CONTENT_TYPE_GRPC
                or b"grpc-encoding" in headers
                or TRAILERS not in scope["extensions"]
                or (admission.not_after is not None and expired(admission.not_after))
                or admission.ban_changes != bans_changed.count
                # Only an event that is there is awaited here, where no deadline ends the wait.
                or hasattr(pending := receive(), PENDING)
            ):
                replay = ReplayReceive((), pending, receive)
                await self._general_path(scope, replay, send, connection, began, fallback)
                return
            row = admission.row
            call = Call(scope, receive, send, connection, admission.principal)
            try:
                call.deadline = began + call_seconds(headers.get(b"grpc-timeout"), MAX_UNARY_SECONDS)
                event = await pending
                body = event.get("body", b"")
                # One message, uncompressed, is its prefix and as many bytes as that says, and then the request ends.
                whole = int.from_bytes(body[:PREFIX_BYTES]) == len(body) - PREFIX_BYTES <= max_bytes
                if whole and event.get("more_body"):
                    pending = receive()
                    end = None if hasattr(pending, PENDING) else await pending
                if whole and end == END_OF_REQUEST:
                    try:
                        request = row.parse(body[PREFIX_BYTES:])
                    except DecodeError as error:
                        raise malformed_message(row.rpc.request) from error
                    response = row.handler(request, call)
                    prepared = type(response) is Prepared
                    if not (prepared or isinstance(response, Message)):
                        await call.complete(response)
                    else:
                        call.started = True
                        await send(START)
                        await send(response.event if prepared else message_event(response))
                        await send(OK_TRAILERS)
            except BaseException as error:  # noqa: BLE001 - raised again there if it is not for the client
                await self._failed(call, row, began, error)
                return
            if not call.started:
                events = (event,) if end is None or end is END_OF_REQUEST else (event, end)
                replay = ReplayReceive(events, pending if end is None else None, receive)
                await self._general_path(scope, replay, send, connection, began, fallback)
                return
            row.ok.count += 1
            took = monotonic() - began
            row.seconds.counts[0 if took <= SHORTEST else bisect_left(LATENCY_BUCKETS, took)] += 1
            row.seconds.sum += took

        return application

    async def _general_path(
        self, scope: Scope, receive: Receive, send: Send, connection: Connection, began: float, fallback: ASGIApp
    ) -> None:
        """Answer a call that has to be admitted, that streams, or whose request comes in pieces."""
        send = reports_disconnect(send)
        row = self._bound.get(scope.get("path", ""))
        if row is None or wire.CONTENT_TYPE not in scope["headers"]:
            with suppress(ClientDisconnectedError), connection.in_use():
                await fallback(scope, receive, send)
            return
        call = Call(scope, receive, send, connection)
        try:
            with connection.in_use():
                self._prepare(row.rpc, call, scope, began)
                await within_deadline(self._admit_and_serve(row, call), call.deadline)
        except BaseException as error:  # noqa: BLE001 - raised again there if it is not for the client
            await self._failed(call, row, began, error)
            return
        row.ok.count += 1
        row.seconds.observe(monotonic() - began)

    def _prepare(self, rpc: Rpc, call: Call, scope: Scope, began: float) -> None:
        """Set the call's encoding and deadline. Raises RpcError or InvalidInputError with the reason."""
        if TRAILERS not in scope["extensions"]:
            # As other gRPC servers: an HTTP implementation or a proxy on the way lacks what gRPC needs.
            raise RpcError(Code.INTERNAL, "gRPC needs the request header 'te: trailers'")
        headers = dict(scope["headers"])
        call.encoding = wire.request_encoding(headers)
        timeout = headers.get(b"grpc-timeout")
        if rpc.kind is Kind.UNARY or timeout is not None:
            longest = MAX_UNARY_SECONDS if rpc.kind is Kind.UNARY else math.inf
            call.deadline = began + call_seconds(timeout, longest)

    async def _admit_and_serve(self, row: BoundRpc, call: Call) -> None:
        rpc, peer = row.rpc, call.peer
        principal = self._authenticator.by_call(rpc.authentication, call)
        if principal is None:
            with self._limiter.attempt(peer):
                principal = await self._authenticator.attest(call)
                self._limiter.admit_call(rpc, principal)
        else:
            self._limiter.admit_call(rpc, principal)
            if row.fast_path:
                not_after = peer.svid.not_after if peer.svid is not None else None
                changes = self._authenticator.bans.changed.count
                call.connection.admitted[rpc.path] = Admission(row, principal, not_after, changes)
        call.principal = principal
        max_bytes = min(self._max_message_bytes, rpc.max_request_bytes)
        reader = wire.FrameReader(call.encoding, max_bytes, self.budget, proven=call.connection.proven)
        try:
            if rpc.kind is Kind.UNARY:
                await self._serve(rpc, call, reader)
                return
            # Counted before anything of it is read.
            with self._streams.slot(principal) as ended:
                if ended is None:
                    await self._serve(rpc, call, reader)
                else:
                    await interrupt(self._serve(rpc, call, reader), ended, ended.result)
        finally:
            reader.release()

    async def _serve(self, rpc: Rpc, call: Call, reader: wire.FrameReader) -> None:
        reads_one = rpc.kind in {Kind.UNARY, Kind.SERVER_STREAM}
        request = await call.read_request(rpc, reader) if reads_one else call.requests(rpc, reader)
        response = rpc.handler(request, call)
        match rpc.kind:
            case Kind.UNARY | Kind.CLIENT_STREAM:
                await call.respond(response if isinstance(response, Prepared | Message) else await response)
            case Kind.SERVER_STREAM:
                await call.connection.drain.interrupt(call.respond_all(response))
            case Kind.BIDI_STREAM:
                await call.respond_all(response)

    async def _failed(self, call: Call, row: BoundRpc, began: float, error: BaseException) -> None:
        """End and count a call that failed. Raises `error` itself if it is not for the client, such as cancellation."""
        code = Code.CANCELLED
        try:
            if not isinstance(error, Exception):
                raise error
            # On the fast path only `send` raises once the response has started: OSError after a disconnect (ASGI 2.4).
            sending = call.started and row.fast_path
            if isinstance(error, ClientDisconnectedError) or (sending and isinstance(error, OSError)):
                return
            if not isinstance(error, MeshwardError):
                peer, request_id = call.peer.address, call.request_id
                log.error("rpc_failed", method=call.method, peer=peer, request_id=request_id, exc_info=error)
                error = InternalError(f"internal fault; the log has the details under {request_id}")
            with suppress(ClientDisconnectedError, OSError):
                if row.rpc.on_error is None or call.principal is ANONYMOUS or call.started:
                    await self._refuse(call, error, audited=row.rpc.audited)
                else:
                    await call.respond(row.rpc.on_error(error))
                code = code_of(error)
        finally:
            self._metrics.rpcs.add((row.rpc.path, code.name))
            row.seconds.observe(monotonic() - began)

    async def refuse(self, scope: Scope, receive: Receive, send: Send, drain: Drain) -> None:
        """Answer a gRPC request for a method that is not in the table: UNIMPLEMENTED."""
        call = Call(scope, receive, send, Connection(read_peer(scope), drain))
        error = RpcError(Code.UNIMPLEMENTED, f"there is no method {call.method[:MAX_PATH_IN_MESSAGE]} here")
        self._metrics.rpcs.add((UNKNOWN_METHOD, Code.UNIMPLEMENTED.name))
        await self._refuse(call, error)

    async def _refuse(self, call: Call, error: MeshwardError, *, audited: bool = False) -> None:
        code = code_of(error)
        # Ours, and not the client's request id, which it may give to many calls.
        audit = {"error_id": token_hex(ERROR_ID_BYTES), "caller": call.principal.name} if audited else {}
        # Where the caller does not learn the reason, the cause has it.
        cause = error.__cause__ if isinstance(error.__cause__, MeshwardError) else error
        self.refusals.record(
            SURFACE,
            error.reason or code.name.lower(),
            method=call.method[:MAX_PATH_IN_MESSAGE],
            peer=call.peer.address,
            code=code.name,
            reason=cause.message,
            request_id=call.request_id,
            audited=call.peer.host if audited else "",
            **audit,
        )
        await call.fail(code, error, audit.get("error_id", ""))
