"""A CA over memory, and real databases."""

from tests.support.fixtures.ca import ca, clock, config, keys, metrics, publisher, transactions
from tests.support.fixtures.databases import database_url, engine, postgres_server, postgres_url

__all__ = [
    "ca",
    "clock",
    "config",
    "database_url",
    "engine",
    "keys",
    "metrics",
    "postgres_server",
    "postgres_url",
    "publisher",
    "transactions",
]
