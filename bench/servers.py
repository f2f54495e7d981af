"""The servers that are compared: `python -m bench.servers NAME` prints the port it serves on and runs until stdin ends.

Each decodes a CheckRequest and answers the same constant.
"""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import grpc
import grpc.aio
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse

from app.core.clock import SystemClock
from app.core.net import Address
from app.spiffe.id import TrustDomain
from app.telemetry.metrics import Metrics
from app.transport.grpc.admission import Authenticator, RateLimiter
from app.transport.grpc.application import GrpcApplication
from app.transport.grpc.asgi import Application
from app.transport.grpc.connection import Drain
from app.transport.grpc.context import CallContext
from app.transport.grpc.routes import UNLIMITED, Authentication, Kind, Prepared, Rpc
from app.transport.mesh import MeshApplication
from app.transport.serving import MeshListener
from app.transport.sockets import listen

SERVICE, METHOD = "envoy.service.auth.v3.Authorization", "Check"
ALLOWED = CheckResponse()
ALLOWED.ok_response.SetInParent()

_ANSWER = ALLOWED.SerializeToString()
_FRAMED = b"\0" + len(_ANSWER).to_bytes(4) + _ANSWER


async def bare(_scope: Any, receive: Any, send: Any) -> None:
    """Answer a Check with nothing but what ASGI asks for."""
    event = await receive()
    body = event.get("body", b"")
    while event.get("more_body"):
        event = await receive()
        body += event.get("body", b"")
    CheckRequest.FromString(body[5:])
    headers = [(b"content-type", b"application/grpc")]
    await send({"type": "http.response.start", "status": 200, "headers": headers, "trailers": True})
    await send({"type": "http.response.body", "body": _FRAMED, "more_body": False})
    await send({"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]})


class BareMesh(MeshApplication):
    """The bare handler, in the place of the mesh application: the listener and its settings are the same."""

    def __init__(self) -> None:
        """Have no table."""

    def generation(self) -> tuple[Application, Drain]:
        """Return the bare handler."""
        return bare, Drain()


async def serve_bare() -> None:
    """Serve the bare handler on the listener of the mesh ports."""
    await _serve(BareMesh())


CONSTANT = Prepared(ALLOWED)


def check(_request: CheckRequest, _context: CallContext) -> Prepared:
    """Answer the constant."""
    return CONSTANT


async def serve_meshward() -> None:
    """Serve the same constant through the route table, authentication, deadline and metrics of Meshward."""

    clock = SystemClock()
    authenticator = Authenticator(trust_domain=TrustDomain("cluster.local"), clock=clock, attestors=())
    row = Rpc(SERVICE, METHOD, Kind.UNARY, CheckRequest, CheckResponse, check, Authentication.MESH, UNLIMITED)
    grpc_application = GrpcApplication(
        [row], authenticator=authenticator, limiter=RateLimiter(clock.monotonic), metrics=Metrics()
    )
    await _serve(MeshApplication(grpc_application, [], authenticator))


async def _serve(application: MeshApplication) -> None:
    listener = MeshListener(listen(Address("127.0.0.1", 0)), application)
    await listener.start()
    await _until_stdin_ends(listener.port)
    await listener.stop()


async def serve_grpcio() -> None:
    """Serve the constant with grpcio's asyncio server."""
    server = grpc.aio.server()

    async def answer(_request: CheckRequest, _context: Any) -> CheckResponse:
        return ALLOWED

    handler = grpc.unary_unary_rpc_method_handler(
        answer, request_deserializer=CheckRequest.FromString, response_serializer=CheckResponse.SerializeToString
    )
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await _until_stdin_ends(port)
    await server.stop(None)


async def _until_stdin_ends(port: int) -> None:
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)


SERVERS: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
    "bare": serve_bare,
    "meshward": serve_meshward,
    "grpcio": serve_grpcio,
}

if __name__ == "__main__":
    asyncio.run(SERVERS[sys.argv[1]]())
