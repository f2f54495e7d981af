"""A CA over memory, and real databases."""

from tests.support.fixtures.ca import ca, config, keys, publisher, transactions
from tests.support.fixtures.databases import database_url, engine, postgres_server, postgres_url

__all__ = [
    "ca",
    "config",
    "database_url",
    "engine",
    "keys",
    "postgres_server",
    "postgres_url",
    "publisher",
    "transactions",
]
