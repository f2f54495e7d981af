"""The database: engine, transactions, the base of every table."""
