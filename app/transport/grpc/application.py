"""The ASGI application that answers RPCs out of the route table."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from time import monotonic
from typing import Any

import structlog
from google.protobuf.message import Message

from app.core.errors import InternalError, MeshwardError
from app.telemetry.families import CounterSeries, HistogramSeries
from app.telemetry.metrics import Metrics
from app.transport.grpc.authentication import Authenticator
from app.transport.grpc.context import CallContext
from app.transport.grpc.framing import DEFAULT_MAX_MESSAGE_BYTES, ENCODINGS
from app.transport.grpc.limits import RateLimiter
from app.transport.grpc.metadata import time_budget
from app.transport.grpc.peer import Peer, read_peer
from app.transport.grpc.routes import Kind, Rpc, route_table
from app.transport.grpc.status import Code, RpcError, code_of
from app.transport.grpc.streams import H2CORN, Exchange, Send, ServerTraits
from app.transport.grpc.supervision import Receive, guard, resume, within

# How long a call that is not a stream may take when its client sets no deadline, or a longer one.
MAX_UNARY_SECONDS = 60.0
# Clients that never say `te: trailers` cannot be given a status after a message.
_TRAILERS = "http.response.trailers"
UNKNOWN_METHOD = "unknown"
# How much of an unknown path is repeated to the caller.
MAX_PATH_IN_MESSAGE = 256

log = structlog.get_logger(__name__)


Run = Callable[[Rpc, CallContext, Exchange], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class _Served:
    """A row with what every one of its calls needs again; `run` is None for a unary one."""

    rpc: Rpc
    run: Run | None
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
        self._caller = authenticator.at_once
        self._limiter = limiter
        self._metrics = metrics
        self._max_message_bytes = max_message_bytes
        self._server = server
        runs: dict[Kind, Run] = {
            Kind.SERVER_STREAM: self._server_stream,
            Kind.CLIENT_STREAM: self._client_stream,
            Kind.BIDI_STREAM: self._bidi_stream,
        }
        self._served = {
            path: _Served(
                rpc,
                runs.get(rpc.kind),
                MAX_UNARY_SECONDS if rpc.kind is Kind.UNARY else None,
                rpc.rate_limit is not None,
                metrics.rpcs.series((path, Code.OK.name)),
                metrics.rpc_seconds.series((path,)),
            )
            for path, rpc in self.table.items()
        }

    async def __call__(  # noqa: C901 - the hot path stays in one frame: each further one costs 2% of a call
        self, scope: Mapping[str, Any], receive: Receive, send: Send, drained: "asyncio.Future[None]"
    ) -> None:
        """Answer one gRPC request; `drained` is done once open streams have to end."""
        started = monotonic()
        path, raw_headers = scope["path"], scope["headers"]
        peer, headers = read_peer(scope), dict(raw_headers)
        context = CallContext(path, peer.address, None, raw_headers)
        exchange = Exchange(receive, send, context, drained, self._server)
        served = self._served.get(path)
        if served is None:
            await self._refuse_unknown(context, exchange)
            return
        counted = served.ok
        try:
            if b"grpc-encoding" in headers or _TRAILERS not in scope["extensions"]:
                exchange.encoding = _encoding(headers, scope)
            budget = time_budget(headers.get(b"grpc-timeout"), served.max_seconds)
            if budget is not None:
                context.deadline = started + budget
            if peer.tls or served.limited:
                self._limit(served.rpc, context, peer)
            caller = self._caller(served.rpc.authentication, peer)
            if caller is None:
                async with within(context.deadline):
                    caller = await self._authenticator.by_token(context)
            context.caller = caller
            if served.run is not None:
                await served.run(served.rpc, context, exchange)
                return
            # Most unary calls wait for nothing. They are run to their end on the spot; a timer and a watcher are made
            # only for one that does wait, because the two would cost more than all the rest of the call.
            work = exchange.unary(served.rpc, self._max_message_bytes)
            try:
                waits_for = work.send(None)
            except StopIteration:
                return
            await guard(resume(work, waits_for), exchange.until_gone, context.deadline)
        except MeshwardError as error:
            counted = self._metrics.rpcs.series(await _refuse(exchange, context, path, error))
        except asyncio.CancelledError:
            counted = self._metrics.rpcs.series((path, Code.CANCELLED.name))
            raise
        except Exception:
            log.exception("rpc_failed", method=path, peer=peer.address, request_id=context.request_id)
            hidden = InternalError(f"internal fault; the log tells more under {context.request_id}")
            counted = self._metrics.rpcs.series(await _refuse(exchange, context, path, hidden))
        finally:
            counted.count += 1
            served.seconds.observe(monotonic() - started)

    async def _refuse_unknown(self, context: CallContext, exchange: Exchange) -> None:
        error = RpcError(Code.UNIMPLEMENTED, f"there is no method {context.method[:MAX_PATH_IN_MESSAGE]} here")
        self._metrics.rpcs.add(await _refuse(exchange, context, UNKNOWN_METHOD, error))

    def _limit(self, rpc: Rpc, context: CallContext, peer: Peer) -> None:
        """Tell the context of the peer's certificate; raise ResourceExhaustedError if it calls too often."""
        if peer.tls:
            context.tls, context.client_chain = True, peer.chain
            if peer.svid is not None:
                context.peer_id = peer.svid.spiffe_id
        if rpc.rate_limit is not None:
            key = str(context.peer_id) if context.peer_id else peer.address.rpartition(":")[0]
            self._limiter.admit(rpc.path, key, rpc.rate_limit)

    async def _server_stream(self, rpc: Rpc, context: CallContext, exchange: Exchange) -> None:
        async with within(context.deadline):
            request = await exchange.one_request(rpc.request, self._max_message_bytes)
        answers = _send_all(rpc.handler(request, context), exchange)
        await guard(answers, exchange.until_gone_or_drained, context.deadline)
        await exchange.finish()

    async def _client_stream(self, rpc: Rpc, context: CallContext, exchange: Exchange) -> None:
        requests = exchange.requests(rpc.request, self._max_message_bytes)
        async with within(context.deadline):
            answer = await rpc.handler(requests, context)
        await exchange.only_answer(answer.SerializeToString())

    async def _bidi_stream(self, rpc: Rpc, context: CallContext, exchange: Exchange) -> None:
        requests = exchange.requests(rpc.request, self._max_message_bytes)
        async with within(context.deadline):
            await _send_all(rpc.handler(requests, context), exchange)
        await exchange.finish()


async def _send_all(answers: AsyncGenerator[Message, None], exchange: Exchange) -> None:
    async with aclosing(answers):
        async for answer in answers:
            await exchange.answer(answer.SerializeToString())


async def _refuse(exchange: Exchange, context: CallContext, method: str, error: MeshwardError) -> tuple[str, str]:
    """End the call with the error's status; return its labels for the metrics."""
    code = code_of(error)
    log.debug(
        "rpc_refused",
        method=context.method,
        peer=context.peer,
        code=code.name,
        reason=error.message,
        request_id=context.request_id,
    )
    await exchange.fail(code, error)
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
