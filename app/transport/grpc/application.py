"""The ASGI application that answers RPCs out of the route table."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from time import monotonic
from typing import Any

import structlog
from google.protobuf.message import Message

from app.core.caller import ANONYMOUS
from app.core.errors import InternalError, MeshwardError
from app.telemetry.families import CounterSeries, HistogramSeries
from app.telemetry.metrics import Metrics
from app.transport.grpc.authentication import Authenticator
from app.transport.grpc.framing import DEFAULT_MAX_MESSAGE_BYTES, ENCODINGS
from app.transport.grpc.limits import RateLimiter
from app.transport.grpc.metadata import time_budget
from app.transport.grpc.peer import Peer, read_peer
from app.transport.grpc.routes import Kind, Rpc, route_table
from app.transport.grpc.status import Code, RpcError, code_of
from app.transport.grpc.streams import CONTENT_TYPE, H2CORN, Call, Send, ServerTraits
from app.transport.grpc.supervision import Receive, guard, resume, within

# How long a call that is not a stream may take when its client sets no deadline, or a longer one.
MAX_UNARY_SECONDS = 60.0
# Clients that never say `te: trailers` cannot be given a status after a message.
_TRAILERS = "http.response.trailers"
UNKNOWN_METHOD = "unknown"
# How much of an unknown path is repeated to the caller.
MAX_PATH_IN_MESSAGE = 256

log = structlog.get_logger(__name__)


Scope = Mapping[str, Any]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Run = Callable[[Rpc, Call], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class _Served:
    """A row with what every one of its calls needs again; `stream` is None for a unary one."""

    rpc: Rpc
    demand: str
    stream: Run | None
    max_seconds: float | None
    limited: bool
    ok: CounterSeries
    seconds: HistogramSeries


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
        streams: dict[Kind, Run] = {
            Kind.SERVER_STREAM: self._server_stream,
            Kind.CLIENT_STREAM: self._client_stream,
            Kind.BIDI_STREAM: self._bidi_stream,
        }
        self._served = {
            path: _Served(
                rpc,
                rpc.authentication.value,
                streams.get(rpc.kind),
                MAX_UNARY_SECONDS if rpc.kind is Kind.UNARY else None,
                rpc.rate_limit is not None,
                metrics.rpcs.series((path, Code.OK.name)),
                metrics.rpc_seconds.series((path,)),
            )
            for path, rpc in self.table.items()
        }

    def serve(  # noqa: C901 - the hot path stays in one frame: each further one costs 2% of a call
        self, drained: "asyncio.Future[None]", otherwise: Application
    ) -> Application:
        """Return the ASGI application that answers calls of the table, and gives `otherwise` every other request.

        `drained` is done once open streams have to end.
        """
        rows, server, max_bytes, rpcs = self._served, self._server, self._max_message_bytes, self._metrics.rpcs

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            started = monotonic()
            served = rows.get(scope.get("path", ""))
            if served is None or CONTENT_TYPE not in scope["headers"]:
                await otherwise(scope, receive, send)
                return
            peer = read_peer(scope)
            call = Call(scope, peer.address, receive, send, drained, server)
            counted = served.ok
            try:
                headers = dict(scope["headers"])
                if b"grpc-encoding" in headers or _TRAILERS not in scope["extensions"]:
                    call.encoding = _encoding(headers, scope)
                budget = time_budget(headers.get(b"grpc-timeout"), served.max_seconds)
                if budget is not None:
                    call.deadline = started + budget
                caller = peer.admitted.get(served.demand)
                if caller is None or served.limited:
                    await self._admit(served.rpc, call, peer)
                else:
                    call.caller = caller
                if served.stream is not None:
                    await served.stream(served.rpc, call)
                    return
                # Most unary calls wait for nothing. They are run to their end on the spot; a timer and a watcher are
                # made only for one that does wait, because the two would cost more than all the rest of the call.
                work = call.unary(served.rpc, max_bytes)
                try:
                    waits_for = work.send(None)
                except StopIteration:
                    return
                await guard(resume(work, waits_for), call.until_gone, call.deadline)
            except MeshwardError as error:
                counted = rpcs.series(await _end(call, served.rpc, error))
            except asyncio.CancelledError:
                counted = rpcs.series((served.rpc.path, Code.CANCELLED.name))
                raise
            except Exception:
                log.exception("rpc_failed", method=served.rpc.path, peer=peer.address, request_id=call.request_id)
                hidden = InternalError(f"internal fault; the log tells more under {call.request_id}")
                counted = rpcs.series(await _end(call, served.rpc, hidden))
            finally:
                counted.count += 1
                served.seconds.observe(monotonic() - started)

        return application

    async def refuse(self, scope: Scope, receive: Receive, send: Send, drained: "asyncio.Future[None]") -> None:
        """Answer a gRPC request for a method that is not in the table: UNIMPLEMENTED."""
        call = Call(scope, read_peer(scope).address, receive, send, drained, self._server)
        error = RpcError(Code.UNIMPLEMENTED, f"there is no method {call.method[:MAX_PATH_IN_MESSAGE]} here")
        self._metrics.rpcs.add(await _refuse(call, UNKNOWN_METHOD, error))

    async def _admit(self, rpc: Rpc, call: Call, peer: Peer) -> None:
        """Give the call its caller. Raises ResourceExhaustedError or UnauthenticatedError with the reason."""
        if peer.tls:
            call.tls, call.client_chain = True, peer.chain
            if peer.svid is not None:
                call.peer_id = peer.svid.spiffe_id
        if rpc.rate_limit is not None:
            key = str(call.peer_id) if call.peer_id else peer.address.rpartition(":")[0]
            self._limiter.admit(rpc.path, key, rpc.rate_limit)
        caller = self._authenticator.at_once(rpc.authentication, peer)
        if caller is None:
            async with within(call.deadline):
                caller = await self._authenticator.by_token(call)
        elif peer.svid is None and not peer.tls:
            peer.admitted[rpc.authentication.value] = caller
        call.caller = caller

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
        await call.only_answer(answer.SerializeToString())

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
    if rpc.instead_of_error is None or call.caller is ANONYMOUS or call.started or code_of(error) is Code.CANCELLED:
        return await _refuse(call, rpc.path, error)
    await call.only_answer(rpc.instead_of_error(error).SerializeToString())
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


def _encoding(headers: Mapping[bytes, bytes], scope: Mapping[str, Any]) -> str:
    """Return the request's compression (compression.md: one that is not supported is UNIMPLEMENTED).

    Raises RpcError INTERNAL if the status of the answer could not be sent.
    """
    if _TRAILERS not in scope["extensions"]:
        raise RpcError(Code.INTERNAL, "gRPC needs the request header 'te: trailers'")
    name = headers[b"grpc-encoding"].decode("latin-1")
    if name not in ENCODINGS:
        raise RpcError(Code.UNIMPLEMENTED, f"grpc-encoding {name[:64]!r} is not supported: use identity or gzip")
    return name
