"""Runs every benchmark: `make bench`."""

from bench import connections, decisions, hot_paths, unary


def main() -> None:
    """Print each benchmark's table."""
    unary.main()
    print()
    decisions.main()
    print()
    connections.main()
    print()
    hot_paths.main()


if __name__ == "__main__":
    main()
