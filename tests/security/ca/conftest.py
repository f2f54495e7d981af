from tests.unit.ca.conftest import ca, clock, config, keys, metrics, publisher, transactions

__all__ = ["ca", "clock", "config", "keys", "metrics", "publisher", "transactions"]
