"""A row of the table as it is served: with what every one of its calls needs again."""

from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.message import Message

from app.telemetry.families import CounterSeries, HistogramSeries
from app.telemetry.metrics import Metrics
from app.transport.grpc.routes import Handler, Rpc
from app.transport.grpc.status import Code


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
