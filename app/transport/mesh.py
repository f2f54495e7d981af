"""The ASGI application behind both mesh ports: gRPC out of its table, and HTTP services under a prefix."""

from collections.abc import Iterable
from dataclasses import dataclass

import structlog

from app.core.errors import UnauthenticatedError
from app.transport.grpc.admission import Authenticator
from app.transport.grpc.application import GrpcApplication
from app.transport.grpc.asgi import Application, Receive, Scope, Send
from app.transport.grpc.call import CONTENT_TYPE, Body
from app.transport.grpc.connection import Drain
from app.transport.grpc.peer import read_peer
from app.transport.grpc.routes import Authentication

# Where a mounted application finds the caller that was authenticated for it.
PRINCIPAL_KEY = "meshward.principal"

NOT_FOUND = "there is nothing here; gRPC needs POST and content-type application/grpc"

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

    def generation(self) -> tuple[Application, Drain]:
        """Return the ASGI application for one server, and what ends its open streams and its connections."""
        drain = Drain()

        async def otherwise(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            if scope["type"] != "http":
                return
            # Mounts come before gRPC: a check of a gRPC request over HTTP carries its content type, and a gRPC refusal
            # is an HTTP 200, which an HTTP client takes for a yes.
            mount = self._mount_of(scope["path"])
            if mount is not None:
                await self._enter(mount, scope, receive, send)
            elif not _is_grpc(scope):
                await _plain(receive, send, 404, NOT_FOUND)
            elif scope["path"] in self._grpc.table:
                await application(_with_plain_content_type(scope), receive, send)
            else:
                await self._grpc.refuse(scope, receive, send, drain)

        application = self._grpc.serve(drain, otherwise)
        return application, drain

    def _mount_of(self, path: str) -> Mount | None:
        return next((mount for mount in self._mounts if mount.holds(path)), None)

    async def _enter(self, mount: Mount, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            caller = self._authenticator.at_once(mount.authentication, read_peer(scope))
        except UnauthenticatedError as error:
            await _plain(receive, send, 401, error.message)
            return
        if caller is None:
            await _plain(receive, send, 401, "this needs a client certificate: an SVID of this trust domain")
            return
        state = {**scope.get("state", {}), PRINCIPAL_KEY: caller}
        await mount.application({**scope, "state": state}, receive, send)


def _is_grpc(scope: Scope) -> bool:
    """Whether the request is gRPC: a POST of `application/grpc`, bare, with a subtype or with parameters."""
    if scope["method"] != "POST":
        return False
    for name, value in scope["headers"]:
        if name == b"content-type":
            media_type: bytes = value.partition(b";")[0].strip().lower()
            return media_type == b"application/grpc" or media_type.startswith(b"application/grpc+")
    return False


def _with_plain_content_type(scope: Scope) -> Scope:
    """Return the scope of a gRPC request as if its content type had neither subtype nor parameters."""
    others = [header for header in scope["headers"] if header[0] != b"content-type"]
    return {**scope, "headers": [CONTENT_TYPE, *others]}


async def _plain(receive: Receive, send: Send, status: int, text: str) -> None:
    if isinstance(receive, Body):
        await receive.discard()
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{text}\n".encode()})
