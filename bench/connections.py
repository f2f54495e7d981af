"""What an open connection costs a server in memory, after it has made a call: `python -m bench.connections`."""

import asyncio
import resource
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from bench.http2 import run
from bench.turns import Contestant, started

WARM_UP_CONNECTIONS = 200
# The server takes a quarter of its descriptors for connections, and many systems allow a process 4,096.
CONNECTIONS = 700


def resident_kilobytes(pid: int | str) -> int:
    """Return how much memory a process has, `self` or another, from Linux' /proc."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


async def kilobytes_per_connection(contestant: Contestant) -> float:
    """Open connections, make a call over each, and return what each added."""

    async def connect(connections: int) -> None:
        await run(replace(contestant.load, connections=connections, in_flight=1, stay=True), connections)

    await connect(WARM_UP_CONNECTIONS)
    before = resident_kilobytes(contestant.pid)
    await connect(CONNECTIONS)
    return (resident_kilobytes(contestant.pid) - before) / CONNECTIONS


def main() -> None:
    """Print the table."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(f"Memory of an open connection that has made a call; {CONNECTIONS} of them")
    print(f"{'server':<12}{'KB each':>10}")
    for name in ("bare", "meshward", "grpcio"):
        with ExitStack() as stack:
            contestant = stack.enter_context(started(name))
            print(f"{name:<12}{asyncio.run(kilobytes_per_connection(contestant)):>10.1f}")


if __name__ == "__main__":
    main()
