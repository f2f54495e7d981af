"""Compares our engine with Istio's filters in a real Envoy: `python -m tests.support.differential [PAIRS] [SEED]`.

Needs the Go program that `make peers` builds. Prints how many pairs were judged, and every difference, made small. With
`record` for PAIRS it writes the filters of policies that tests replay where Go is missing.
"""

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

from tests.support.differential.builder import RECORDED_SETS, record, translate
from tests.support.differential.policies import random_sets
from tests.support.differential.run import judge, random_pairs
from tests.support.differential.shrink import shrunk
from tests.support.peers import ISTIO_BUILDER

# Policies with as many requests each, and how many of the pairs are connections. Envoy refuses some requests itself.
PAIRS_OF_A_SET, CONNECTIONS, REFUSED = 20, 0.1, 1.25
SHOWN = 5


async def main() -> int:
    """Return 1 if anything was judged differently."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["record"]:
        sets = random_sets(RECORDED_SETS, seed=0)
        record(sets, translate(ISTIO_BUILDER.path, sets))
        return 0
    number = int(arguments[0]) if arguments else 10_000
    seed = int(arguments[1]) if len(arguments) > 1 else time.time_ns()
    sent = int(number * REFUSED)
    sets = random_sets(max(1, sent // PAIRS_OF_A_SET), seed)
    filters = translate(ISTIO_BUILDER.path, sets)
    pairs = random_pairs(sets, int(sent * (1 - CONNECTIONS)), int(sent * CONNECTIONS), seed)
    with tempfile.TemporaryDirectory() as directory:
        started = time.monotonic()
        judged = await judge(pairs, dict(enumerate(sets)), dict(enumerate(filters)), Path(directory))
        seconds = time.monotonic() - started
    found = [(pair, each) for pair, each in zip(pairs, judged, strict=True) if each is not None]
    wrong = [pair for pair, each in found if not each.is_right]
    allowed = sum(each.envoy for _, each in found)
    denied_more = sum(each.envoy and not each.strict for _, each in found)
    sys.stdout.write(
        f"{len(found)} pairs judged in {seconds:.0f} s, {allowed} of them allowed; strict denies {denied_more} more; "
        f"{len(wrong)} differences; seed {seed}\n"
    )
    for pair in wrong[:SHOWN]:
        with tempfile.TemporaryDirectory() as directory:
            policies, request, last = await shrunk(sets[pair.number], pair.request, ISTIO_BUILDER.path, Path(directory))
        sys.stdout.write(f"{json.dumps([each['spec'] for each in policies])}\n  {request}\n  {last}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
