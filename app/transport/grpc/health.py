"""grpc.health.v1.Health: whether the services answer, as a call and as a stream."""

from collections.abc import AsyncIterator, Iterator

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from app.core.rates import RateLimit
from app.core.signals import Latest, Signal
from app.transport.grpc.context import CallContext
from app.transport.grpc.routes import Authentication, Kind, Rpc
from app.transport.grpc.status import Code, RpcError

SERVICE = "grpc.health.v1.Health"
# The name that stands for the whole server.
OVERALL = ""

_SERVING = HealthCheckResponse.SERVING
_NOT_SERVING = HealthCheckResponse.NOT_SERVING


class Health:
    """The health of the named services. All of them are up or down together: one process serves them."""

    def __init__(self, services: frozenset[str]) -> None:
        self._services = services | {OVERALL}
        self._serving = Latest(value=False)
        self._changed = Signal()

    def set_serving(self, *, serving: bool) -> None:
        """Set whether the services answer from now on, and send it to every watcher."""
        if self._serving.set(serving):
            self._changed.fire()

    async def check(self, request: HealthCheckRequest, _context: CallContext) -> HealthCheckResponse:
        """Answer the state of one service. Raises RpcError NOT_FOUND for a name that is not served."""
        if request.service not in self._services:
            raise RpcError(Code.NOT_FOUND, f"there is no service {request.service[:256]!r} here")
        return self._state()

    async def watch(self, request: HealthCheckRequest, _context: CallContext) -> AsyncIterator[HealthCheckResponse]:
        """Answer the state of one service now and at each change; SERVICE_UNKNOWN for a name that is not served."""
        if request.service not in self._services:
            yield HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)
        while True:
            seen = self._changed.count
            if request.service in self._services:
                yield self._state()
            await self._changed.wait_beyond(seen)

    def rpcs(self, authentication: Authentication, rate_limit: RateLimit | None) -> Iterator[Rpc]:
        """Yield the rows of this service for the route table."""
        for method, kind, handler in (("Check", Kind.UNARY, self.check), ("Watch", Kind.SERVER_STREAM, self.watch)):
            yield Rpc(
                SERVICE, method, kind, HealthCheckRequest, HealthCheckResponse, handler, authentication, rate_limit
            )

    def _state(self) -> HealthCheckResponse:
        return HealthCheckResponse(status=_SERVING if self._serving.value else _NOT_SERVING)
