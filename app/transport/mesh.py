"""The ASGI application behind both mesh ports: gRPC out of its table, and HTTP services under a prefix."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from app.core.errors import UnauthenticatedError
from app.transport.grpc.application import GrpcApplication
from app.transport.grpc.authentication import Authenticator
from app.transport.grpc.peer import read_peer
from app.transport.grpc.routes import Authentication
from app.transport.grpc.streams import Send
from app.transport.grpc.supervision import Receive

Application = Callable[[Mapping[str, Any], Receive, Send], Awaitable[None]]

# The header of nearly every gRPC request, to be found without looking at each of them here.
_CONTENT_TYPE = (b"content-type", b"application/grpc")
# Where a mounted application finds the caller that was authenticated for it.
CALLER_KEY = "meshward.caller"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Mount:
    """An HTTP service on the mesh ports: every path under `prefix`, for whom `authentication` admits.

    IDENTITY is not for mounts: join tokens are taken by RPCs alone.
    """

    prefix: str
    application: Application
    authentication: Authentication

    def holds(self, path: str) -> bool:
        """Whether `path` is the mount's."""
        return path == self.prefix or path.startswith(f"{self.prefix}/")


class MeshApplication:
    """Dispatches a request to gRPC or to the mount that its path lies under; everything else is 404."""

    def __init__(self, grpc: GrpcApplication, mounts: Iterable[Mount], authenticator: Authenticator) -> None:
        self._grpc = grpc
        self._mounts = tuple(mounts)
        for mount in self._mounts:
            if any(mount.holds(path) for path in grpc.table):
                raise ValueError(f"an RPC lies under the mount {mount.prefix}")
        self._authenticator = authenticator

    def generation(self) -> tuple[Application, "asyncio.Future[None]"]:
        """Return the ASGI application for one server, and the future that ends its open streams when it is done."""
        drained: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        grpc, rpcs = self._grpc, self._grpc.table

        async def application(scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
            if scope.get("path") in rpcs and _CONTENT_TYPE in scope["headers"] and scope["type"] == "http":
                await grpc(scope, receive, send, drained)
            elif scope["type"] == "http":
                await self._dispatch(scope, receive, send, drained)
            elif scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})

        return application, drained

    async def _dispatch(
        self, scope: Mapping[str, Any], receive: Receive, send: Send, drained: "asyncio.Future[None]"
    ) -> None:
        # Mounts come first: a check of a gRPC request over HTTP carries its content type, and a gRPC refusal is an
        # HTTP 200, which an HTTP client takes for a yes.
        path = scope["path"]
        for mount in self._mounts:
            if mount.holds(path):
                await self._enter(mount, scope, receive, send)
                return
        if _is_grpc(scope):
            await self._grpc(scope, receive, send, drained)
        else:
            await _plain(send, 404, "there is nothing here; gRPC needs POST and content-type application/grpc")

    async def _enter(self, mount: Mount, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        try:
            caller = self._authenticator.at_once(mount.authentication, read_peer(scope))
        except UnauthenticatedError as error:
            await _plain(send, 401, error.message)
            return
        if caller is None:
            await _plain(send, 401, "this needs a client certificate: an SVID of this trust domain")
            return
        state = {**scope.get("state", {}), CALLER_KEY: caller}
        await mount.application({**scope, "state": state}, receive, send)


def _is_grpc(scope: Mapping[str, Any]) -> bool:
    """Whether the request is gRPC: a POST of `application/grpc`, bare, with a subtype or with parameters."""
    if scope["method"] != "POST":
        return False
    for name, value in scope["headers"]:
        if name == b"content-type":
            if value == b"application/grpc":
                return True
            media_type: bytes = value.partition(b";")[0].strip().lower()
            return media_type == b"application/grpc" or media_type.startswith(b"application/grpc+")
    return False


async def _plain(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{text}\n".encode()})
