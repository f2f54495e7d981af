"""What the gRPC adapter costs: a Check that is decoded and answered with a constant, beside the bare ASGI handler.

The servers run side by side and are loaded in turns, so that a machine that speeds up or slows down does so for all.
The cost of a call is the server process' own CPU time, which another process on the machine cannot add to.
"""

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from envoy.service.auth.v3.external_auth_pb2 import CheckRequest

from bench.http2 import Load, run
from bench.servers import METHOD, SERVERS, SERVICE

# Short rounds, so that a pair of them sees the same machine; many, so that their median does not mind the others.
ROUNDS = 101
CALLS_PER_ROUND = 4_000
WARM_UP_CALLS = 4_000
# The part of the adapter's cost over the bare handler's that is the design's limit.
LIMIT = 1.15
# How Linux numbers the clock of another process (clock_getcpuclockid(3)).
_CPU_CLOCK_OF_PROCESS = 2


@dataclass
class Contestant:
    """A running server and what its rounds took."""

    name: str
    port: int
    pid: int
    cpu_microseconds: list[float] = field(default_factory=list)
    calls_per_second: list[float] = field(default_factory=list)

    def cpu_seconds(self) -> float:
        """Return the processor time that the process has had, from Linux' clock of it, which counts nanoseconds."""
        return time.clock_gettime(~self.pid << 3 | _CPU_CLOCK_OF_PROCESS)


def request() -> bytes:
    """Return a CheckRequest as a sidecar sends it, about 450 bytes."""
    message = CheckRequest()
    attributes = message.attributes
    attributes.source.principal = "spiffe://cluster.local/ns/shop/sa/web"
    attributes.source.address.socket_address.address = "10.0.0.7"
    attributes.destination.principal = "spiffe://cluster.local/ns/shop/sa/cart"
    attributes.destination.address.socket_address.port_value = 8080
    http = attributes.request.http
    http.id, http.method, http.path, http.host = "1234567890", "GET", "/api/v1/cart/items?page=2", "cart.shop.svc"
    http.scheme, http.protocol, http.size = "http", "HTTP/1.1", -1
    for name, value in (
        ("user-agent", "curl/8.5.0"),
        ("accept", "*/*"),
        ("x-request-id", "7b2f6a52-7f2c-4d0e-9d4e-0a9c1a8e2b11"),
        ("x-forwarded-proto", "http"),
        (":authority", "cart.shop.svc"),
        (":path", "/api/v1/cart/items?page=2"),
        (":method", "GET"),
    ):
        http.headers[name] = value
    serialized: bytes = message.SerializeToString()
    return serialized


@contextmanager
def started(name: str) -> Iterator[Contestant]:
    """Start one of the servers; it ends with the block."""
    with subprocess.Popen(
        [sys.executable, "-m", "bench.servers", name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdin
        yield Contestant(name, int(process.stdout.readline()), process.pid)
        process.stdin.close()


async def measure(contestant: Contestant, message: bytes, calls: int) -> tuple[float, float]:
    """Return the CPU microseconds of a call and the calls per second of one round."""
    before = contestant.cpu_seconds()
    seconds = await run(Load(contestant.port, f"/{SERVICE}/{METHOD}", message), calls)
    return (contestant.cpu_seconds() - before) / calls * 1e6, calls / seconds


async def compare(contestants: list[Contestant], message: bytes) -> None:
    """Load the contestants in turns."""
    for contestant in contestants:
        await measure(contestant, message, WARM_UP_CALLS)
    for _ in range(ROUNDS):
        for contestant in contestants:
            cpu, rate = await measure(contestant, message, CALLS_PER_ROUND)
            contestant.cpu_microseconds.append(cpu)
            contestant.calls_per_second.append(rate)


def main() -> None:
    """Print the table."""
    message = request()
    with ExitStack() as stack:
        contestants = [stack.enter_context(started(name)) for name in SERVERS]
        asyncio.run(compare(contestants, message))
    bare = contestants[0]
    print(f"Unary Check, {len(message)} bytes, constant answer; {ROUNDS} rounds of {CALLS_PER_ROUND} calls in turns")
    print(f"{'server':<12}{'CPU µs/call':>14}{'calls/s':>12}{'CPU ÷ bare':>14}{'time ÷ bare':>14}")
    for contestant in contestants:
        cpu_ratio = statistics.median(
            mine / its for mine, its in zip(contestant.cpu_microseconds, bare.cpu_microseconds, strict=True)
        )
        time_ratio = statistics.median(
            its / mine for mine, its in zip(contestant.calls_per_second, bare.calls_per_second, strict=True)
        )
        print(
            f"{contestant.name:<12}{statistics.median(contestant.cpu_microseconds):>14.1f}"
            f"{statistics.median(contestant.calls_per_second):>12,.0f}{cpu_ratio:>14.2f}{time_ratio:>14.2f}"
        )
    print(f"The adapter may cost {LIMIT:.2f} times the bare handler.")


if __name__ == "__main__":
    main()
