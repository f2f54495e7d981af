"""A CA over memory."""

from tests.support.fixtures.ca import ca, config, keys, publisher, transactions

__all__ = ["ca", "config", "keys", "publisher", "transactions"]
