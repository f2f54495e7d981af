"""ShouldRateLimit over HTTP, as envoyproxy/ratelimit's `/json`: for clients that have no gRPC."""

from collections.abc import Awaitable, Callable, Mapping
from inspect import isawaitable
from typing import Any

from envoy.service.ratelimit.v3 import rls_pb2
from google.protobuf.json_format import MessageToJson, Parse, ParseError

from app.core.errors import InvalidInputError, MeshwardError
from app.quota.rpc.ratelimit import RateLimitRpc
from app.transport.body import Receive, read_body
from app.transport.grpc.context import CallContext
from app.transport.grpc.peer import read_peer
from app.transport.grpc.status import RpcError
from app.transport.mesh import PRINCIPAL_KEY
from app.transport.rest.problems import status_of

JSON_PATH = "/json"
# A request of the gRPC call's size; what is longer has more descriptors and longer values than any route makes.
MAX_BODY_BYTES = 1024 * 1024

_OK, _BAD_REQUEST, _METHOD_NOT_ALLOWED, _OVER_LIMIT = 200, 400, 405, 429

Send = Callable[[dict[str, Any]], Awaitable[None]]


class JsonRateLimit:
    """The ASGI application: a RateLimitRequest as JSON (protobuf's JSON mapping) in, a RateLimitResponse out.

    The status is 200, or 429 for a request that is over a limit. What is not a valid request is 400.
    """

    def __init__(self, rpc: RateLimitRpc) -> None:
        self._rpc = rpc

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request (ASGI 3, http)."""
        status, body, content_type = await self._answer(scope, receive)
        headers = [(b"content-type", content_type)]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Mapping[str, Any], receive: Receive) -> tuple[int, bytes, bytes]:
        if scope["method"] != "POST":
            return _text(_METHOD_NOT_ALLOWED, "send a RateLimitRequest as JSON with POST")
        try:
            request = _parsed(await read_body(receive, MAX_BODY_BYTES))
            context = CallContext(JSON_PATH, read_peer(scope), principal=scope["state"][PRINCIPAL_KEY])
            answer = self._rpc.ShouldRateLimit(request.SerializeToString(), context)
            answered = await answer if isawaitable(answer) else answer
            response = rls_pb2.RateLimitResponse.FromString(answered.SerializeToString())
        except RpcError as error:  # what envoyproxy/ratelimit answers in its own words
            return _text(_BAD_REQUEST, error.message)
        except MeshwardError as error:
            return _text(status_of(error), error.message)
        over = response.overall_code == rls_pb2.RateLimitResponse.OVER_LIMIT
        body = MessageToJson(response, indent=None, ensure_ascii=False).encode()
        return _OVER_LIMIT if over else _OK, body, b"application/json"


def _parsed(body: bytes) -> Any:
    try:
        return Parse(body, rls_pb2.RateLimitRequest())
    except (ParseError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInputError("the body is not a RateLimitRequest as JSON") from error


def _text(status: int, message: str) -> tuple[int, bytes, bytes]:
    return status, f"{message}\n".encode(), b"text/plain; charset=utf-8"
