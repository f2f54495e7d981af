"""Runs every benchmark: `make bench`."""

from bench import authority, connections, decisions, flood, hot_paths, issuance, log, loop, quota, sds, unary


def main() -> None:
    """Print each benchmark's table."""
    unary.main()
    print()
    decisions.main()
    print()
    quota.main()
    print()
    connections.main()
    print()
    hot_paths.main()
    print()
    issuance.main()
    print()
    authority.main()
    print()
    log.main()
    print()
    sds.main()
    print()
    flood.main()
    print()
    loop.main()


if __name__ == "__main__":
    main()
