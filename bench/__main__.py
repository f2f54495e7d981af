"""Runs every benchmark: `make bench`."""

from bench import unary


def main() -> None:
    """Print each benchmark's table."""
    unary.main()


if __name__ == "__main__":
    main()
