"""The ASGI application of both mesh ports: gRPC from its table, and HTTP services under a prefix."""

from collections.abc import Iterable
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.errors import MeshwardError, UnauthenticatedError
from app.transport.grpc.admission import Authenticator
from app.transport.grpc.application import GrpcApplication
from app.transport.grpc.connection import Connections, Drain
from app.transport.grpc.peer import read_peer
from app.transport.grpc.routes import Authentication
from app.transport.grpc.wire import CONTENT_TYPE, CONTENT_TYPE_GRPC

# The key of the scope's state under which a mounted application finds the authenticated principal.
PRINCIPAL_KEY = "meshward.principal"

# In metrics and logs, where a request was refused.
SURFACE = "mesh_http"
MAX_PATH_IN_LOG = 256
UNAUTHORIZED, FORBIDDEN = 401, 403
NOT_FOUND = "there is nothing here; gRPC needs POST and content-type application/grpc"


@dataclass(frozen=True, slots=True)
class Mount:
    """An HTTP service on the mesh ports under `prefix`, for those whom `authentication`, never IDENTITY, admits."""

    prefix: str
    application: ASGIApp
    authentication: Authentication

    def matches(self, path: str) -> bool:
        """Whether `path` is under the prefix."""
        return path == self.prefix or path.startswith(f"{self.prefix}/")


class MeshApplication:
    """Dispatches a request to gRPC or to the mount that its path is under; everything else is 404."""

    def __init__(self, grpc: GrpcApplication, mounts: Iterable[Mount], authenticator: Authenticator) -> None:
        self._grpc = grpc
        self._mounts = tuple(mounts)
        for mount in self._mounts:
            if any(mount.matches(path) for path in grpc.table):
                raise ValueError(f"an RPC lies under the mount {mount.prefix}")
        self._authenticator = authenticator

    def for_server(self, *, unix: bool = False) -> tuple[ASGIApp, Connections]:
        """Return the ASGI application for one server, on a Unix socket or not, and the connections that it keeps."""
        connections = Connections(Drain(), unix=unix)

        async def fallback(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "websocket":
                self._record(scope, "websocket", "there are no WebSockets here")
                await send({"type": "websocket.close", "code": 1008})
            if scope["type"] != "http":
                return
            # Mounts come before gRPC: a check of a gRPC request over HTTP carries its content type, and a gRPC refusal
            # is an HTTP 200, which an HTTP client takes for a yes.
            mount = next((mount for mount in self._mounts if mount.matches(scope["path"])), None)
            if mount is not None:
                await self._serve_mount(mount, scope, receive, send)
            elif not _is_grpc(scope):
                self._record(scope, "not_found", NOT_FOUND)
                await _respond_text(send, 404, NOT_FOUND)
            elif scope["path"] in self._grpc.table:
                # With neither subtype nor parameters in its content type.
                others = [header for header in scope["headers"] if header[0] != b"content-type"]
                await application({**scope, "headers": [CONTENT_TYPE, *others]}, receive, send)
            else:
                await self._grpc.refuse(scope, receive, send, connections.drain)

        application = self._grpc.serve(connections, fallback)
        return application, connections

    async def _serve_mount(self, mount: Mount, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            principal = self._authenticator.by_connection(mount.authentication, read_peer(scope))
        except UnauthenticatedError as error:
            await self._refuse(scope, send, UNAUTHORIZED, error.reason, error.message)
            return
        except MeshwardError as error:
            await self._refuse(scope, send, FORBIDDEN, error.reason, error.message)
            return
        if principal is None:
            message = "this needs a client certificate: an SVID"
            await self._refuse(scope, send, UNAUTHORIZED, "no_certificate", message)
            return
        state = {**scope.get("state", {}), PRINCIPAL_KEY: principal}
        await mount.application({**scope, "state": state}, receive, send)

    async def _refuse(self, scope: Scope, send: Send, status: int, refusal: str, message: str) -> None:
        self._record(scope, refusal, message)
        await _respond_text(send, status, message)

    def _record(self, scope: Scope, refusal: str, reason: str) -> None:
        path = scope["path"][:MAX_PATH_IN_LOG]
        self._grpc.refusals.record(SURFACE, refusal, path=path, peer=read_peer(scope).address, reason=reason)


def _is_grpc(scope: Scope) -> bool:
    """Whether the request is gRPC: a POST of `application/grpc`, bare, with a subtype or with parameters."""
    if scope["method"] != "POST":
        return False
    for name, value in scope["headers"]:
        if name == b"content-type":
            media_type: bytes = value.partition(b";")[0].strip().lower()
            return media_type == CONTENT_TYPE_GRPC or media_type.startswith(CONTENT_TYPE_GRPC + b"+")
    return False


async def _respond_text(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{text}\n".encode()})
