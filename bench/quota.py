"""What ShouldRateLimit costs: in memory and in Valkey, beside a constant answer and envoyproxy/ratelimit, in one run.

Each server has a core, which it shares with its Valkey, and the load comes from another. One waits for a Valkey that
counts nothing, and answers the constant: no counting in Valkey can cost less. A figure is a ratio of processor time in
rounds that take turns: the machine's speed and other processes are in both of its terms.
"""

import asyncio
import os
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle
from time import process_time

from app.quota.rpc.messages import read_request
from app.telemetry import logs
from bench import counters
from bench.calls import limit_requests
from bench.latency import latencies
from bench.loaded import load_limits, loaded_parts
from bench.stores import has_ratelimit, ratelimit, valkey
from bench.turns import Contestant, started, take_turns

ROUNDS, CALLS = 21, 2_000
LATENCY_ROUNDS, LATENCY_SECONDS = 15, 0.4
MATCHES, MATCH_ROUNDS = 2_000, 15

ROUND_TRIP = "constant limit after a round trip"
CONSTANT, FEW, MEMORY, MANY_MEMORY = "constant limit", "10 limits", "10,000 limits", "10,000 limits, 10,000 users"
VALKEY, MANY_VALKEY = "10,000 limits, Valkey", "10,000 limits, Valkey, 10,000 users"
PEER, MANY_PEER = "envoyproxy/ratelimit", "envoyproxy/ratelimit, 10,000 users"

Goal = tuple[str, str, str, bool]


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Run what is started in the block on one core, if there are two; this process continues where it was."""
    before = os.sched_getaffinity(0)
    if len(before) > 1:
        os.sched_setaffinity(0, {sorted(before)[core]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def contestants() -> Iterator[dict[str, Contestant]]:
    """Yield the running servers by their names."""
    with ExitStack() as stack:
        found = {}
        with on_core(0):
            for name in (CONSTANT, FEW, MEMORY, MANY_MEMORY):
                found[name] = stack.enter_context(started(name))
            for name in (ROUND_TRIP, VALKEY, MANY_VALKEY):
                port, pid = stack.enter_context(valkey())
                found[name] = stack.enter_context(started(name, f"valkey://127.0.0.1:{port}"))
                found[name].store_pid = pid
            for name, users in ((PEER, 1), (MANY_PEER, 10_000)) if has_ratelimit() else ():
                found[name] = stack.enter_context(ratelimit(name, 10_000, users))
        yield found


def share(of: Contestant, beside: Contestant, *, store: bool = True) -> float:
    """Return the processor time of a call of `beside` over that of `of`, with that of its `store` or without."""
    return statistics.median(
        theirs / (mine + (stores if store else 0))
        for mine, stores, theirs in zip(of.cpu_microseconds, of.store_microseconds, _whole(beside), strict=True)
    )


def _whole(contestant: Contestant) -> list[float]:
    return [own + store for own, store in zip(contestant.cpu_microseconds, contestant.store_microseconds, strict=True)]


def print_servers(found: dict[str, Contestant]) -> None:
    """Print what a call cost each server."""
    print(f"ShouldRateLimit, two descriptors, one core; {ROUNDS} rounds of {CALLS} calls in turns")
    print(f"{'server':<38}{'CPU µs/call':>12}{'its store':>11}{'calls/s':>10}{'constant ÷':>12}{'with store':>12}")
    for name, each in found.items():
        own, store = statistics.median(each.cpu_microseconds), statistics.median(each.store_microseconds)
        alone, whole = share(each, found[CONSTANT], store=False), share(each, found[CONSTANT])
        rate = statistics.median(each.calls_per_second)
        print(f"{name:<38}{own:>12.1f}{store:>11.1f}{rate:>10,.0f}{alone:>12.2f}{whole:>12.2f}")


def server_goals(found: dict[str, Contestant]) -> Iterator[Goal]:
    """Yield what is wanted of the servers."""
    for name, least in ((MEMORY, 0.6), (MANY_MEMORY, 0.6), (VALKEY, 0.4), (MANY_VALKEY, 0.4)):
        measured = share(found[name], found[CONSTANT], store=False)
        yield f"{name}: of the constant answer's throughput", f"{measured:.0%}", f"{least:.0%}", measured >= least
    for name, peer in ((VALKEY, PEER), (MANY_VALKEY, MANY_PEER)):
        if peer in found:
            measured = share(found[name], found[peer])
            yield f"{name}: times {PEER}, each with its store", f"{measured:.2f}", "2.00", measured >= 2


async def latency_goals(found: dict[str, Contestant]) -> list[Goal]:
    """Return what is wanted of the latencies at half of the load that the slower one bears, in the best of the rounds.

    In any other one this process, which makes the calls, may itself have waited for the machine.
    """
    if PEER not in found:
        return []
    mine, theirs = found[VALKEY], found[PEER]
    rate = min(statistics.median(mine.calls_per_second), statistics.median(theirs.calls_per_second)) / 2
    taken: dict[str, list[float]] = {mine.name: [], theirs.name: []}
    for _ in range(LATENCY_ROUNDS):
        for each in (mine, theirs):
            took = await latencies(each.load, rate, int(rate * LATENCY_SECONDS))
            taken[each.name].append(took[int(len(took) * 0.99)] * 1000)
    ours, peer = (min(taken[each.name]) for each in (mine, theirs))
    what = f"p99 at {rate:,.0f} calls/s, half of the slower one's most"
    return [(what, f"{ours:.1f} ms", f"{peer:.1f} ms, theirs", ours <= peer)]


async def matching_goal() -> Goal:
    """Measure reading and matching of requests that differ, with 10 limits and with 10,000."""
    payloads = cycle(limit_requests(MATCHES))
    cost: dict[int, list[float]] = {}
    async with loaded_parts() as few, loaded_parts() as many:
        await load_limits(few, 10)
        await load_limits(many, 10_000)
        for _ in range(MATCH_ROUNDS):
            for limits, parts in ((10, few), (10_000, many)):
                begun = process_time()
                for _ in range(MATCHES):
                    parts.quotas.match(*read_request(next(payloads)))
                cost.setdefault(limits, []).append(process_time() - begun)
    ratio = statistics.median(many / few for few, many in zip(cost[10], cost[10_000], strict=True))
    return "Matching at 10,000 limits, of its cost at 10", f"{ratio:.2f}", "1.30", ratio <= 1.3


def print_goals(goals: Sequence[Goal]) -> None:
    """Print what was wanted and what was measured."""
    print(f"{'goal':<76}{'measured':>10}  {'wanted':<16}{'met':>5}")
    for what, measured, wanted, met in goals:
        print(f"{what:<76}{measured:>10}  {wanted:<16}{'yes' if met else 'no':>5}")


async def measure() -> list[Goal]:
    """Load the servers in turns and return what is wanted and what was measured."""
    with contestants() as found, on_core(1):
        await take_turns(list(found.values()), ROUNDS, CALLS)
        print_servers(found)
        goals = [*server_goals(found), *await latency_goals(found)]
    return [*goals, await matching_goal()]


def main() -> None:
    """Print the tables."""
    logs.configure("error", "console")
    goals = asyncio.run(measure())
    print()
    goals += counters.main()
    print()
    print_goals(goals)


if __name__ == "__main__":
    main()
