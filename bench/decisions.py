"""What decisions cost through the server, beside the bare ASGI handler and a constant: Check and ShouldRateLimit.

Counters are in memory. With one user every request is the same one; with many, none was read recently.
"""

from bench import counters
from bench.turns import compare

ROUNDS = 31


def main() -> None:
    """Print the tables."""
    compare("Check", ("bare", "meshward", "1,000 policies", "embedded Rego"), ROUNDS)
    print()
    limits = ("10 limits", "10,000 limits", "10,000 limits, 10,000 users")
    valkey = ("10,000 limits, Valkey", "10,000 limits, Valkey, 10,000 users")
    compare("ShouldRateLimit, two descriptors", ("constant limit", "bare limit", *limits, *valkey), ROUNDS)
    print()
    counters.main()


if __name__ == "__main__":
    main()
