"""A service with one method of each kind, whose messages are plain strings."""

import asyncio
import contextlib

from google.protobuf.wrappers_pb2 import StringValue

from app.core.errors import InvalidInputError, Violation
from app.core.rates import RateLimit
from app.transport.grpc.routes import UNLIMITED, Authentication, Kind, Prepared, Rpc
from app.transport.mesh import Mount

ECHO = "meshward.test.Echo"


class EchoService:
    def __init__(self) -> None:
        self.contexts = []
        self.waiting = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.finished = asyncio.Event()
        self.release = asyncio.Event()

    async def unary(self, request, context):
        if request.value == "wait":
            self.contexts.append(context)
            await self._wait()
        if request.value == "ignore cancellation":
            with contextlib.suppress(asyncio.CancelledError):
                await self._wait()
        return self.sync(request, context)

    def awaitable(self, request, context):
        return self.unary(request, context)

    def sync(self, request, context):
        self.contexts.append(context)
        match request.value:
            case "invalid":
                raise InvalidInputError("Prüfung: 100% of it is wrong", Violation("spec.rules[0]", "is empty"))
            case "bug":
                raise KeyError("secret detail")
            case "prepared":
                return Prepared(StringValue(value="prepared!").SerializeToString())
        return StringValue(value=f"{request.value}!")

    async def server_stream(self, request, context):
        self.contexts.append(context)
        for index in range(3):
            if request.value == "fail" and index == 2:
                raise InvalidInputError("two were enough")
            yield StringValue(value=f"{request.value}{index}")
        if request.value == "wait":
            await self._wait()

    async def client_stream(self, requests, context):
        self.contexts.append(context)
        values = [request.value async for request in requests]
        return StringValue(value=",".join(values))

    async def bidi_stream(self, requests, context):
        self.contexts.append(context)
        try:
            async for request in requests:
                yield StringValue(value=f"{request.value}!")
        finally:
            self.finished.set()

    async def _wait(self):
        self.waiting.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    def mounts(self):
        async def mounted(scope, receive, send):
            self.contexts.append(scope)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send(
                {"type": "http.response.body", "body": scope["state"]["meshward.principal"].credential.value.encode()}
            )

        return [Mount("/mounted", mounted, Authentication.MESH)]


def echo_rpcs(service: EchoService) -> list[Rpc]:
    def row(method, kind, handler, authentication=Authentication.PUBLIC, limit=UNLIMITED, on_error=None):
        return Rpc(ECHO, method, kind, StringValue, StringValue, handler, authentication, limit, on_error)

    def no(error):
        return StringValue(value=f"no: {error.message}")

    return [
        row("Unary", Kind.UNARY, service.unary),
        row("Sync", Kind.UNARY, service.sync),
        row("Awaitable", Kind.UNARY, service.awaitable),
        row("ServerStream", Kind.SERVER_STREAM, service.server_stream),
        row("ClientStream", Kind.CLIENT_STREAM, service.client_stream),
        row("BidiStream", Kind.BIDI_STREAM, service.bidi_stream),
        row("Mesh", Kind.UNARY, service.unary, Authentication.MESH),
        row("Identity", Kind.UNARY, service.unary, Authentication.IDENTITY),
        row("OnError", Kind.UNARY, service.unary, Authentication.MESH, on_error=no),
        row("OnErrorSync", Kind.UNARY, service.sync, Authentication.MESH, on_error=no),
        row("OnErrorForTokens", Kind.UNARY, service.unary, Authentication.IDENTITY, on_error=no),
        row("Limited", Kind.UNARY, service.unary, limit=RateLimit(per_second=1, burst=2)),
    ]
