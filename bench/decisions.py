"""What a Check costs through the server, beside the bare ASGI handler and a constant."""

from bench.turns import compare

ROUNDS = 31


def main() -> None:
    """Print the table."""
    compare("Check", ("bare", "meshward", "1,000 policies", "embedded Rego"), ROUNDS)


if __name__ == "__main__":
    main()
