"""The middleware of every request to the admin API: request id, body limits, response headers, log and metrics."""

import asyncio
from http import HTTPStatus
from time import perf_counter
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.telemetry.logs import request_id
from app.telemetry.metrics import Metrics
from app.transport.rest.problems import HttpError, problem

# Documents of policies and quota are bounded at half of it; nothing else comes near.
MAX_BODY_BYTES = 8 << 20
# From the first byte of the body to the last: the longest that a slow client can hold a request open.
BODY_TIMEOUT_SECONDS = 30.0
REQUEST_ID_HEADER = "x-request-id"
# The methods that are metric labels; clients can make up others.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"
# In metrics and logs, where a request was refused.
SURFACE = "admin"
# Responses are data for the caller alone: not cached, sniffed, framed or executed.
SECURITY_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

_log = structlog.get_logger(__name__)


class Edge:
    """The outermost middleware. A fault inside becomes a problem with the request's id and without details."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI 3); other kinds of scope pass through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        started = perf_counter()
        with structlog.contextvars.bound_contextvars(request_id=exchange.request_id):
            try:
                await self._app(scope, exchange.receive, exchange.send)
            except Exception:
                _log.exception("request_crashed", method=scope["method"], path=scope["path"])
                if exchange.started:
                    raise  # the server resets the response
                await exchange.crash()
            finally:
                self._account(scope, exchange.status, perf_counter() - started)

    def _account(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", OTHER)
        method = scope["method"] if scope["method"] in _METHODS else OTHER
        self._metrics.http_requests.add((method, route, str(status)))
        client = scope["client"][0] if scope.get("client") else ""
        milliseconds = round(seconds * 1000, 2)
        authenticated = "principal" in scope["state"]
        if not authenticated and HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
            reason = scope["state"].get("refusal") or HTTPStatus(status).name.lower()
            self._metrics.refusals.record(SURFACE, reason, method=method, path=scope["path"], peer=client)
        # What any caller can send as often as it likes is not logged line by line.
        log = _log.info if authenticated else _log.debug
        log("http_request", method=method, path=scope["path"], status=status, ms=milliseconds, client=client)


class _Exchange:
    """One request and its response."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.request_id = request_id(Headers(scope=scope).get(REQUEST_ID_HEADER))
        self.status = int(HTTPStatus.INTERNAL_SERVER_ERROR)
        self.started = False
        scope.setdefault("state", {})["request_id"] = self.request_id
        self._receive, self._send = receive, send
        self._scope = scope
        self._read = 0
        self._complete = False
        self._deadline: float | None = None

    async def receive(self) -> Message:
        """Pass on the next part of the body. Raises HttpError if it is too large, or too slow."""
        if self._complete:
            return await self._receive()
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + BODY_TIMEOUT_SECONDS
            self._check_size(_declared_length(self._scope))
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError as error:
            raise HttpError(HTTPStatus.REQUEST_TIMEOUT, "the body did not arrive in time") from error
        self._read += len(message.get("body", b""))
        self._check_size(self._read)
        self._complete = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Pass on an event of the response, with the headers that every response has."""
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
            headers[REQUEST_ID_HEADER] = self.request_id
            if not self._complete and self.status >= HTTPStatus.BAD_REQUEST:
                # The rest of the body is not read.
                headers["connection"] = "close"
        await self._send(message)

    async def crash(self) -> None:
        """Answer 500 without details."""
        answer = problem(
            HTTPStatus.INTERNAL_SERVER_ERROR, "internal fault; the log has the details by request_id", self.request_id
        )
        await answer(self._scope, self._receive, self.send)

    @staticmethod
    def _check_size(size: int) -> None:
        if size > MAX_BODY_BYTES:
            raise HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {MAX_BODY_BYTES} bytes")


def _declared_length(scope: Scope) -> int:
    text: Any = Headers(scope=scope).get("content-length", "")
    # Only to refuse early: the server rejects a length that is no number, and the bytes are counted anyway.
    return int(text) if text.isascii() and text.isdigit() and len(text) < len(str(1 << 63)) else 0
