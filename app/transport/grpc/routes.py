"""The table of RPCs: what is served, to whom, how often. No row can leave out its authentication and rate limit."""

from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any

from google.protobuf.message import Message

from app.core.errors import MeshwardError
from app.core.rates import RateLimit
from app.telemetry.families import CounterSeries, HistogramSeries
from app.telemetry.metrics import Metrics
from app.transport.grpc.context import CallContext
from app.transport.grpc.status import Code
from app.transport.grpc.wire import payload_event

# Takes the request (an async iterator of requests where they stream) and the context. An async generator where the
# response streams; else an async function, or a plain one that returns the response, or an awaitable if it has to wait.
Handler = Callable[[Any, CallContext], Any]


class Prepared:
    """A response that is serialized already, as a handler may return it; `event` is its ASGI event."""

    __slots__ = ("_payload", "event")

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self.event = payload_event(payload)

    def SerializeToString(self) -> bytes:  # noqa: N802 - the name that messages have
        """Return the serialized message."""
        return self._payload


class Soon:
    """An awaitable of a response that is there, or raises, within `seconds`: a later deadline needs no timer."""

    __slots__ = ("seconds", "work")

    def __init__(self, work: Awaitable[Message | Prepared], seconds: float) -> None:
        self.work, self.seconds = work, seconds

    def __await__(self) -> Generator[Any, None, Message | Prepared]:
        return self.work.__await__()


class Kind(Enum):
    """Which sides of a call stream."""

    UNARY = "unary"
    SERVER_STREAM = "server_stream"
    CLIENT_STREAM = "client_stream"
    BIDI_STREAM = "bidi_stream"


class Authentication(Enum):
    """Who may make a call.

    PUBLIC: any caller. MESH: on the TLS port one with an SVID of this trust domain, on the plaintext port a peer on
    this machine. IDENTITY: on either port, an SVID or an unused join token, for RPCs that issue identities.
    """

    PUBLIC = "public"
    MESH = "mesh"
    IDENTITY = "identity"


# A health check or a reflection request has one name. A certificate request has 16 KB, a discovery request the names
# and the metadata of a node. A check may have the body of the request that it is about.
MAX_REQUEST_BYTES = {
    Authentication.PUBLIC: 4 * 1024,
    Authentication.IDENTITY: 256 * 1024,
    Authentication.MESH: 2**32,
}


UNLIMITED = None
"""Written out in a row whose calls are the hot path and whose callers are authenticated."""


@dataclass(frozen=True, slots=True)
class Rpc:
    """One row of the table.

    `on_error`, of a unary row, makes the response for a caller that was admitted but whose call fails before or in the
    handler: for a contract under which a client may take an error for a yes. A handler that `reads_bytes` is given the
    serialized request, and refuses what is none. Of an `audited` row each refusal is logged, with an id that the caller
    gets.
    """

    service: str
    method: str
    kind: Kind
    request: type[Message]
    response: type[Message]
    handler: Handler
    authentication: Authentication
    rate_limit: RateLimit | None
    on_error: Callable[[MeshwardError], Message] | None = None
    reads_bytes: bool = False
    audited: bool = False

    @property
    def parse(self) -> Callable[[bytes], Any]:
        """Makes what the handler is given of the bytes of a message. Raises DecodeError if they are no message."""
        return bytes if self.reads_bytes else self.request.FromString

    @property
    def max_request_bytes(self) -> int:
        """The longest message that a caller may send, before the listener's own limit."""
        return MAX_REQUEST_BYTES[self.authentication]

    @property
    def path(self) -> str:
        """The HTTP/2 path of the RPC: `/package.Service/Method`."""
        return f"/{self.service}/{self.method}"


def route_table(rpcs: Iterable[Rpc]) -> Mapping[str, Rpc]:
    """Return the rows by path. Raises ValueError if two rows have one path."""
    table: dict[str, Rpc] = {}
    for rpc in rpcs:
        if rpc.path in table:
            raise ValueError(f"{rpc.path} is in the table twice")
        table[rpc.path] = rpc
    return MappingProxyType(table)


@dataclass(frozen=True, slots=True)
class BoundRpc:
    """A row bound to its metrics. `fast_path`: it is unary, without a rate limit. `ok` counts calls that succeed."""

    rpc: Rpc
    fast_path: bool
    handler: Handler
    parse: Callable[[bytes], Any]
    ok: CounterSeries
    seconds: HistogramSeries


def bind(rpc: Rpc, metrics: Metrics) -> BoundRpc:
    """Return the row bound to its metrics."""
    return BoundRpc(
        rpc,
        fast_path=rpc.kind is Kind.UNARY and rpc.rate_limit is None,
        handler=rpc.handler,
        parse=rpc.parse,
        ok=metrics.rpcs.series((rpc.path, Code.OK.name)),
        seconds=metrics.rpc_seconds.series((rpc.path,)),
    )
