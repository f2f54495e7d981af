"""Servers that run side by side and are loaded in turns.

A machine that speeds up or slows down does so for all of them. The cost of a call is the server process' own CPU time,
which another process on the machine cannot add to.
"""

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from bench.calls import Method
from bench.http2 import Load, run
from bench.servers import SERVERS

# Short rounds, so that a pair of them sees the same machine; many, so that their median does not mind the others.
CALLS_PER_ROUND = 4_000
# How Linux numbers the clock of another process (clock_getcpuclockid(3)).
_CPU_CLOCK_OF_PROCESS = 2


@dataclass
class Contestant:
    """A running server and what its rounds took; `store_pid` is the process of its own store, if it has one."""

    name: str
    load: Load
    pid: int
    store_pid: int | None = None
    cpu_microseconds: list[float] = field(default_factory=list)
    store_microseconds: list[float] = field(default_factory=list)
    calls_per_second: list[float] = field(default_factory=list)

    def cpu_seconds(self) -> float:
        """Return the processor time of the process and its children, from Linux' clocks, which count nanoseconds."""
        threads = Path(f"/proc/{self.pid}/task").glob("*/children")
        pids = (self.pid, *(int(child) for thread in threads for child in thread.read_text().split()))
        return sum(map(_cpu_seconds, pids))

    def store_seconds(self) -> float:
        """Return the processor time of the store."""
        return _cpu_seconds(self.store_pid) if self.store_pid else 0.0

    async def round(self, calls: int) -> tuple[float, float, float]:
        """Return the CPU microseconds of a call, those of its store, and the calls per second of one round."""
        before, store_before = self.cpu_seconds(), self.store_seconds()
        seconds = await run(self.load, calls)
        own, store = self.cpu_seconds() - before, self.store_seconds() - store_before
        return own / calls * 1e6, store / calls * 1e6, calls / seconds


def _cpu_seconds(pid: int) -> float:
    return time.clock_gettime(~pid << 3 | _CPU_CLOCK_OF_PROCESS)


@contextmanager
def started(name: str, *arguments: str) -> Iterator[Contestant]:
    """Start one of the servers with its arguments; it ends with the block."""
    server = SERVERS[name]
    with subprocess.Popen(
        [sys.executable, "-m", "bench.servers", name, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdin
        port = process.stdout.readline()
        if not port:
            raise RuntimeError(f"the server did not start: python -m bench.servers {name!r} shows why")
        requests = server.requests()
        _check_answer(name, server.method, int(port), requests[0])
        yield Contestant(name, Load(int(port), server.method.path, requests), process.pid)
        process.stdin.close()


def _check_answer(name: str, method: Method, port: int, request: bytes) -> None:
    """Raise RuntimeError if the server refuses what it is to be measured with: a refusal may cost less."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer = channel.unary_unary(method.path, response_deserializer=method.response.FromString)(request)
    if not method.is_yes(answer):
        raise RuntimeError(f"the server {name!r} refuses the call: {answer}")


async def take_turns(contestants: Sequence[Contestant], rounds: int, calls: int = CALLS_PER_ROUND) -> None:
    """Load each in turn, after a round that does not count, and keep what its rounds took."""
    for contestant in contestants:
        await contestant.round(calls)
    for _ in range(rounds):
        for contestant in contestants:
            cpu, store, rate = await contestant.round(calls)
            contestant.cpu_microseconds.append(cpu)
            contestant.store_microseconds.append(store)
            contestant.calls_per_second.append(rate)


def compare(title: str, names: Sequence[str], rounds: int) -> None:
    """Load the servers in turns and print a table with their ratios to the first one, a bare handler."""
    with ExitStack() as stack:
        contestants = [stack.enter_context(started(name)) for name in names]
        asyncio.run(take_turns(contestants, rounds))
    bare = contestants[0]
    print(f"{title}; {rounds} rounds of {CALLS_PER_ROUND} calls in turns")
    print(f"{'server':<30}{'CPU µs/call':>12}{'calls/s':>10}{'CPU ÷ bare':>14}{'time ÷ bare':>14}")
    for contestant in contestants:
        cpu, rate = contestant.cpu_microseconds, contestant.calls_per_second
        cpu_ratio = statistics.median(mine / its for mine, its in zip(cpu, bare.cpu_microseconds, strict=True))
        time_ratio = statistics.median(its / mine for mine, its in zip(rate, bare.calls_per_second, strict=True))
        print(
            f"{contestant.name:<30}{statistics.median(cpu):>12.1f}{statistics.median(rate):>10,.0f}"
            f"{cpu_ratio:>14.2f}{time_ratio:>14.2f}"
        )
