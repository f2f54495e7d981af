"""The servers that are compared: `python -m bench.servers NAME` prints its port, and serves until stdin ends.

Those that count in Valkey are given its URL: `python -m bench.servers NAME URL`.
"""

import asyncio
import gc
import sys
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import grpc.aio
from starlette.types import ASGIApp
from valkey.asyncio.connection import Connection

from app.core.clock import SystemClock
from app.core.net import Address
from app.core.store_url import parse_store_url
from app.main.parts import Parts
from app.main.rpcs import SERVICES, rpc_table
from app.spiffe.id import TrustDomain
from app.telemetry import logs
from app.telemetry.metrics import Metrics
from app.transport.grpc.admission import Authenticator, RateLimiter
from app.transport.grpc.application import GrpcApplication
from app.transport.grpc.connection import Connections, Drain
from app.transport.grpc.context import CallContext
from app.transport.grpc.health import Health
from app.transport.grpc.routes import UNLIMITED, Authentication, Kind, Prepared, Rpc, Soon
from app.transport.mesh import MeshApplication
from app.transport.serving import MeshListener
from app.transport.sockets import listen
from bench.calls import CHECK, SHOULD_RATE_LIMIT, Method, check_requests, limit_requests
from bench.loaded import load_custom, load_limits, load_policies, loaded_parts
from bench.tokens import (
    MANY,
    api_key_requests,
    authorization_server,
    introspected_requests,
    load_api_keys,
    load_introspection,
    load_tokens,
    token_requests,
)

# Checks that a server is sent in turn: fewer than it remembers clients and paths of, as of a workload's usual traffic.
CHECKS = 1_000


class BareMesh(MeshApplication):
    """The bare handler, in the place of the mesh application: the listener and its settings are the same."""

    def __init__(self, method: Method) -> None:
        """Answer `method`, and everything else, with its constant."""
        self._parse = method.request.FromString
        answer = method.constant.SerializeToString()
        self._framed = b"\0" + len(answer).to_bytes(4) + answer

    def for_server(self, *, unix: bool = False) -> tuple[ASGIApp, Connections]:
        """Return the bare handler."""
        parse, framed = self._parse, self._framed

        async def bare(_scope: Any, receive: Any, send: Any) -> None:
            event = await receive()
            body = event.get("body", b"")
            while event.get("more_body"):
                event = await receive()
                body += event.get("body", b"")
            parse(body[5:])
            headers = [(b"content-type", b"application/grpc")]
            await send({"type": "http.response.start", "status": 200, "headers": headers, "trailers": True})
            await send({"type": "http.response.body", "body": framed, "more_body": False})
            await send({"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]})

        return bare, Connections(Drain(), unix=unix)


async def serve_bare(method: Method) -> None:
    """Serve the bare handler on the listener of the mesh ports: nothing but what ASGI asks for."""
    await _serve(BareMesh(method))


async def serve_constant(method: Method) -> None:
    """Serve the same constant through the route table, authentication, deadline and metrics of Meshward."""
    constant = Prepared(method.constant.SerializeToString())
    await _serve_answer(method, lambda _request, _context: constant)


class RoundTrips:
    """Has calls wait for a Valkey that is asked for nothing: once for all that have come since the last time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting: list[asyncio.Future[Prepared]] = []
        self._called = asyncio.Event()

    def join(self) -> "asyncio.Future[Prepared]":
        """Return what the next answer resolves."""
        future: asyncio.Future[Prepared] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._called.set()
        return future

    async def run(self, answer: Prepared) -> None:
        """Ask until cancelled, and resolve with `answer`."""
        while True:
            await self._called.wait()
            self._called.clear()
            waiting, self._waiting = self._waiting, []
            await self._connection.send_packed_command(b"*1\r\n$4\r\nPING\r\n")
            await self._connection.read_response()
            for future in waiting:
                future.set_result(answer)


async def serve_round_trip(counters_url: str, *, method: Method) -> None:
    """Serve the constant after a round trip to Valkey: what is left where counting costs nothing."""
    server = parse_store_url(counters_url).servers[0]
    trips = RoundTrips(Connection(host=server.host, port=server.port))
    running = asyncio.create_task(trips.run(Prepared(method.constant.SerializeToString())))
    await _serve_answer(method, lambda _request, _context: Soon(trips.join(), 1.0))
    running.cancel()


async def _serve_answer(method: Method, answer: Callable[[Any, CallContext], Prepared | Soon]) -> None:
    clock = SystemClock()
    authenticator = Authenticator(trust_domain=TrustDomain("cluster.local"), clock=clock, attestors=())
    row = Rpc(
        method.service,
        method.name,
        Kind.UNARY,
        method.request,
        method.response,
        answer,
        Authentication.MESH,
        UNLIMITED,
    )
    grpc_application = GrpcApplication(
        [row], authenticator=authenticator, limiter=RateLimiter(clock.monotonic), metrics=Metrics()
    )
    await _serve(MeshApplication(grpc_application, [], authenticator))


async def serve_loaded(
    counters_url: str = "memory://",
    *,
    policies: int = 0,
    limits: int = 0,
    rego: bool = False,
    load_credentials: Callable[[Parts], Awaitable[None]] | None = None,
) -> None:
    """Serve the rows of the control plane, with so many policies and limits loaded."""
    logs.configure("error", "console")
    async with authorization_server() as url, loaded_parts(counters_url, introspection_url=url) as parts:
        if policies:
            await load_policies(parts, 0, policies)
        if limits:
            await load_limits(parts, limits)
        if rego:
            await load_custom(parts)
        if load_credentials is not None:
            await load_credentials(parts)
        grpc_application = GrpcApplication(
            rpc_table(parts, Health(SERVICES)),
            authenticator=parts.authenticator,
            limiter=RateLimiter(parts.clock.monotonic),
            metrics=parts.metrics,
        )
        await _serve(MeshApplication(grpc_application, [], parts.authenticator))


async def _serve(application: MeshApplication) -> None:
    listener = MeshListener(listen(Address("127.0.0.1", 0)), application)
    await listener.start()
    gc.collect()
    gc.freeze()  # as app/main/serve.py does
    await _until_stdin_ends(listener.port)
    await listener.stop()


async def serve_grpcio(method: Method) -> None:
    """Serve the constant with grpcio's asyncio server."""
    server = grpc.aio.server()

    async def answer(_request: Any, _context: Any) -> Any:
        return method.constant

    handler = grpc.unary_unary_rpc_method_handler(
        answer,
        request_deserializer=method.request.FromString,
        response_serializer=method.response.SerializeToString,
    )
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(method.service, {method.name: handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await _until_stdin_ends(port)
    await server.stop(None)


async def _until_stdin_ends(port: int) -> None:
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)


@dataclass(frozen=True)
class Server:
    """A server, and the requests that it is sent in turn."""

    method: Method
    serve: Callable[..., Coroutine[Any, Any, None]]
    requests: Callable[[], tuple[bytes, ...]]


def _check(serve: Callable[..., Coroutine[Any, Any, None]]) -> Server:
    return Server(CHECK, serve, partial(check_requests, CHECKS))


def _with_credentials(
    load: Callable[[Parts], Awaitable[None]],
    requests: Callable[[int], tuple[bytes, ...]] = check_requests,
    count: int = CHECKS,
) -> Server:
    return Server(CHECK, partial(serve_loaded, policies=1_000, load_credentials=load), partial(requests, count))


def _limit(serve: Callable[..., Coroutine[Any, Any, None]], users: int = 1) -> Server:
    return Server(SHOULD_RATE_LIMIT, serve, partial(limit_requests, users))


SERVERS = {
    "bare": _check(partial(serve_bare, CHECK)),
    "meshward": _check(partial(serve_constant, CHECK)),
    "grpcio": _check(partial(serve_grpcio, CHECK)),
    "10 policies": _check(partial(serve_loaded, policies=10)),
    "1,000 policies": _check(partial(serve_loaded, policies=1_000)),
    "10,000 policies": _check(partial(serve_loaded, policies=10_000)),
    "embedded Rego": _check(partial(serve_loaded, rego=True)),
    "no token": _with_credentials(load_tokens),
    "a token seen before": _with_credentials(load_tokens, token_requests, 1),
    "1,000 tokens seen before": _with_credentials(load_tokens, token_requests, MANY),
    "no API key": _with_credentials(load_api_keys),
    "an API key seen before": _with_credentials(load_api_keys, api_key_requests, 1),
    "1,000 API keys seen before": _with_credentials(load_api_keys, api_key_requests, MANY),
    "no opaque token": _with_credentials(load_introspection),
    "an introspected token": _with_credentials(load_introspection, introspected_requests, 1),
    "1,000 introspected tokens": _with_credentials(load_introspection, introspected_requests, MANY),
    "bare limit": _limit(partial(serve_bare, SHOULD_RATE_LIMIT)),
    "constant limit": _limit(partial(serve_constant, SHOULD_RATE_LIMIT)),
    "constant limit after a round trip": _limit(partial(serve_round_trip, method=SHOULD_RATE_LIMIT)),
    "10 limits": _limit(partial(serve_loaded, limits=10)),
    "10,000 limits": _limit(partial(serve_loaded, limits=10_000)),
    "10,000 limits, Valkey": _limit(partial(serve_loaded, limits=10_000)),
    "10,000 limits, Valkey, 10,000 users": _limit(partial(serve_loaded, limits=10_000), users=10_000),
    "10,000 limits, 10,000 users": _limit(partial(serve_loaded, limits=10_000), users=10_000),
}

if __name__ == "__main__":
    asyncio.run(SERVERS[sys.argv[1]].serve(*sys.argv[2:]))
