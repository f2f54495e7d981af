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

from bench.http2 import Load, run
from bench.servers import SERVERS

# Short rounds, so that a pair of them sees the same machine; many, so that their median does not mind the others.
CALLS_PER_ROUND = 4_000
# How Linux numbers the clock of another process (clock_getcpuclockid(3)).
_CPU_CLOCK_OF_PROCESS = 2


@dataclass
class Contestant:
    """A running server and what its rounds took."""

    name: str
    load: Load
    pid: int
    cpu_microseconds: list[float] = field(default_factory=list)
    calls_per_second: list[float] = field(default_factory=list)

    def cpu_seconds(self) -> float:
        """Return the processor time of the process and its children, from Linux' clocks, which count nanoseconds."""
        threads = Path(f"/proc/{self.pid}/task").glob("*/children")
        pids = (self.pid, *(int(child) for thread in threads for child in thread.read_text().split()))
        return sum(time.clock_gettime(~pid << 3 | _CPU_CLOCK_OF_PROCESS) for pid in pids)

    async def round(self, calls: int) -> tuple[float, float]:
        """Return the CPU microseconds of a call and the calls per second of one round."""
        before = self.cpu_seconds()
        seconds = await run(self.load, calls)
        return (self.cpu_seconds() - before) / calls * 1e6, calls / seconds


@contextmanager
def started(name: str) -> Iterator[Contestant]:
    """Start one of the servers; it ends with the block."""
    server = SERVERS[name]
    with subprocess.Popen(
        [sys.executable, "-m", "bench.servers", name],
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
        yield Contestant(name, Load(int(port), server.method.path, server.requests()), process.pid)
        process.stdin.close()


async def take_turns(contestants: Sequence[Contestant], rounds: int, calls: int = CALLS_PER_ROUND) -> None:
    """Load each in turn, after a round that does not count, and keep what its rounds took."""
    for contestant in contestants:
        await contestant.round(calls)
    for _ in range(rounds):
        for contestant in contestants:
            cpu, rate = await contestant.round(calls)
            contestant.cpu_microseconds.append(cpu)
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
