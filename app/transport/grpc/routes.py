"""The table of RPCs: what is served, to whom, how often.

An RPC that is not in the table is UNIMPLEMENTED, and a row cannot be written without its authentication and its
rate limit: neither field has a default.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from inspect import iscoroutinefunction
from types import CoroutineType, MappingProxyType
from typing import Any

from google.protobuf.message import Message

from app.core.errors import MeshwardError
from app.telemetry.families import CounterSeries, HistogramSeries
from app.telemetry.metrics import Metrics
from app.transport.grpc.context import CallContext
from app.transport.grpc.status import Code
from app.transport.grpc.wire import only_message

# An async function, or an async generator where the response streams, of the request (an async iterator of requests
# where they stream) and the context. A unary call that waits for nothing is answered soonest by a plain function.
Handler = Callable[[Any, CallContext], Any]


class Prepared:
    """An answer that is always the same, serialized once; a handler returns it in the place of the message.

    `event` is the ASGI event that carries it where it is the only message.
    """

    __slots__ = ("_payload", "event")

    def __init__(self, message: Message) -> None:
        self._payload: bytes = message.SerializeToString()
        self.event = only_message(message)

    def SerializeToString(self) -> bytes:  # noqa: N802 - the name that messages have
        """Return the serialized message."""
        return self._payload


class Kind(Enum):
    """Which sides of a call stream."""

    UNARY = "unary"
    SERVER_STREAM = "server_stream"
    CLIENT_STREAM = "client_stream"
    BIDI_STREAM = "bidi_stream"


class Authentication(Enum):
    """Who may make a call.

    PUBLIC: anybody. MESH: on the TLS port a caller with an SVID of this trust domain; on the plaintext port a peer on
    this machine. IDENTITY: on either port, an SVID or an unused join token, for whatever hands out or signs one.
    """

    PUBLIC = "public"
    MESH = "mesh"
    IDENTITY = "identity"


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Calls that one caller may start: `per_second` on average, `burst` at once."""

    per_second: float
    burst: int


UNLIMITED = None
"""Written out in a row whose calls are the hot path and whose callers are authenticated."""


@dataclass(frozen=True, slots=True)
class Rpc:
    """One row of the table.

    `instead_of_error`, of a unary row, makes the answer for a caller that was admitted but whose call fails before or
    in the handler: for a contract in which an error would be taken for a yes.
    """

    service: str
    method: str
    kind: Kind
    request: type[Message]
    response: type[Message]
    handler: Handler
    authentication: Authentication
    rate_limit: RateLimit | None
    instead_of_error: Callable[[MeshwardError], Message] | None = None

    @property
    def waits(self) -> bool:
        """Whether the handler may wait for something: a unary one that is a plain function never does."""
        return self.kind is not Kind.UNARY or iscoroutinefunction(self.handler)

    async def answer(self, request: Message, context: CallContext) -> Message | Prepared:
        """Return the answer of a unary row's handler."""
        answer = self.handler(request, context)
        # `waits` is asked once for a row; for a call it is cheaper to look at the answer.
        result: Message | Prepared = await answer if isinstance(answer, CoroutineType) else answer
        return result

    @property
    def path(self) -> str:
        """The HTTP/2 path of the RPC: `/package.Service/Method`."""
        return f"/{self.service}/{self.method}"


def route_table(rpcs: Iterable[Rpc]) -> Mapping[str, Rpc]:
    """Return the rows by path. Raises ValueError if two rows have one path."""
    table: dict[str, Rpc] = {}
    for rpc in rpcs:
        if rpc.path in table:
            raise ValueError(f"{rpc.path} stands in the table twice")
        table[rpc.path] = rpc
    return MappingProxyType(table)


@dataclass(frozen=True, slots=True)
class Served:
    """`at_once`: its calls wait for nothing once their request is read, and are not limited. `ok` counts them."""

    rpc: Rpc
    at_once: bool
    handler: Handler
    parse: Callable[[bytes], Message]
    ok: CounterSeries
    seconds: HistogramSeries


def served(rpc: Rpc, metrics: Metrics) -> Served:
    """Return the row as it is served."""
    return Served(
        rpc,
        at_once=rpc.rate_limit is None and not rpc.waits,
        handler=rpc.handler,
        parse=rpc.request.FromString,
        ok=metrics.rpcs.series((rpc.path, Code.OK.name)),
        seconds=metrics.rpc_seconds.series((rpc.path,)),
    )
