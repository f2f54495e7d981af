"""An ASGI server in memory, which treats the mesh application as h2corn does."""

import asyncio
from collections import deque

from app.spiffe.id import TrustDomain
from app.telemetry.metrics import Metrics
from app.transport.grpc.admission import Authenticator, RateLimiter
from app.transport.grpc.application import GrpcApplication
from app.transport.mesh import MeshApplication
from tests.fakes.bans import ListedBans

EMPTY_MESSAGE = ({"type": "http.request", "body": b"\0\0\0\0\0", "more_body": True}, {"type": "http.request"})


class SendAfterCloseError(OSError):
    """What a server raises from `send` after a disconnect (ASGI 2.4)."""


class Exchange:
    """One request, and what is sent back."""

    def __init__(self, application, scope, events) -> None:
        self.sent = []
        self._events = deque(events)
        self._pending: asyncio.Future | None = None
        self._connected = True
        self._ended = asyncio.Event()
        self.task = asyncio.create_task(application(scope, self._receive, self._send))

    async def status(self):
        """Return the `grpc-status`, once it has been sent."""
        await self._ended.wait()
        return next(value for name, value in self._headers() if name == b"grpc-status").decode()

    @property
    def messages(self):
        return [event["body"] for event in self.sent if event.get("body")]

    def disconnect(self) -> None:
        """Reset the stream: a call that does not wait for its request is cancelled."""
        self.close()
        if self._pending is None or self._pending.done():
            self.task.cancel()
        else:
            self._pending.set_result({"type": "http.disconnect"})

    def close(self) -> None:
        """Let `send` raise from now on, as after a disconnect that the server has yet to tell the application of."""
        self._connected = False

    def _receive(self):
        if self._events:
            return self._next()
        self._pending = asyncio.get_running_loop().create_future()
        return self._pending

    async def _next(self):
        return self._events.popleft()

    async def _send(self, event) -> None:
        if not self._connected:
            raise SendAfterCloseError("ASGI send called after the stream closed")
        self.sent.append(event)
        if any(name == b"grpc-status" for name, _ in self._headers()):
            self._ended.set()

    def _headers(self):
        return [header for event in self.sent for header in event.get("headers", ())]


class MemoryServer:
    """Connections to the mesh application with the rows `rpcs`."""

    def __init__(self, rpcs, clock) -> None:
        self.metrics = Metrics()
        self.bans = ListedBans()
        authenticator = Authenticator(
            trust_domain=TrustDomain("cluster.local"), clock=clock, attestors=(), bans=self.bans
        )
        limiter = RateLimiter(clock.monotonic)
        grpc = GrpcApplication(rpcs, authenticator=authenticator, limiter=limiter, metrics=self.metrics)
        self._application, connections = MeshApplication(grpc, [], authenticator).for_server()
        self.drain = connections.drain
        self.budget = grpc.budget
        self._exchanges = []

    def request(self, path, client, chain=None, *, events=EMPTY_MESSAGE, headers=()) -> Exchange:
        """Send a request over the connection whose scopes share `client`."""
        extensions = {"http.response.trailers": {}}
        if chain is not None:
            extensions["tls"] = {"client_cert_chain": chain, "client_cert_error": None}
        scope = {
            "type": "http",
            "http_version": "2",
            "method": "POST",
            "path": path,
            "client": client,
            "headers": [(b"content-type", b"application/grpc"), (b"te", b"trailers"), *headers],
            "extensions": extensions,
        }
        exchange = Exchange(self._application, scope, events)
        self._exchanges.append(exchange)
        return exchange

    async def open_requests(self) -> int:
        """Return how many requests have not returned, once everything has run that can."""
        await settle()
        return sum(not exchange.task.done() for exchange in self._exchanges)

    async def close_connections(self) -> None:
        """Cancel every request that has not returned, as when their connections close."""
        for exchange in self._exchanges:
            exchange.task.cancel()
        await settle()
        self._exchanges.clear()

    async def stop(self) -> None:
        self.drain.end_streams()
        self.drain.end_connections()
        await asyncio.gather(*(exchange.task for exchange in self._exchanges), return_exceptions=True)


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)
