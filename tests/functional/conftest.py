"""Real databases."""

from tests.support.fixtures.databases import (
    database_url,
    engine,
    own_postgres,
    postgres_server,
    postgres_url,
    stopped_and_started,
)

__all__ = ["database_url", "engine", "own_postgres", "postgres_server", "postgres_url", "stopped_and_started"]
