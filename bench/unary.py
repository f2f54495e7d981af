"""What the gRPC adapter costs: a Check that is decoded and answered with a constant, beside the bare ASGI handler."""

from bench.turns import compare

ROUNDS = 101
# The part of the adapter's cost over the bare handler's that is the design's limit.
LIMIT = 1.15


def main() -> None:
    """Print the table."""
    compare("Unary Check, constant answer", ("bare", "meshward", "grpcio"), ROUNDS)
    print(f"The adapter may cost {LIMIT:.2f} times the bare handler.")


if __name__ == "__main__":
    main()
