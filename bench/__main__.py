"""Runs every benchmark: `make bench`."""

from bench import hot_paths, unary


def main() -> None:
    """Print each benchmark's table."""
    unary.main()
    print()
    hot_paths.main()


if __name__ == "__main__":
    main()
