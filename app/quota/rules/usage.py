"""How much of its limit a counter has used, from the outcome of a probe."""

from dataclasses import replace

from app.quota.model import Algorithm, CounterName, LiveCounter, Outcome, TokenBucket, Total
from app.quota.rules.counting import MAX_COUNT


def usage_probe(algorithm: Algorithm) -> Algorithm:
    """Return the algorithm that a counter is read with: a limit that no count exceeds, so that none is cut off at it.

    The tokens of a bucket are what they are by its own limit alone.
    """
    return algorithm if isinstance(algorithm, TokenBucket) else replace(algorithm, requests=MAX_COUNT)


def live_counter(name: CounterName, algorithm: Algorithm, probed: Outcome) -> LiveCounter | None:
    """Return the counter with `name` from the outcome of a probe with `usage_probe`; None if nothing is counted in it.

    `algorithm` is the limit's own.
    """
    if isinstance(algorithm, TokenBucket):
        used = (algorithm.burst if algorithm.requests else 0) - probed.remaining
    else:
        used = MAX_COUNT - probed.remaining
    if used <= 0:
        return None
    return LiveCounter(name, used, None if isinstance(algorithm, Total) else probed.reset_seconds)
