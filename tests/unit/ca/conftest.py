"""A CA over memory."""

from tests.support.fixtures.ca import ca, clock, config, keys, metrics, publisher, transactions

__all__ = ["ca", "clock", "config", "keys", "metrics", "publisher", "transactions"]
