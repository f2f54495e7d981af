"""Transactions of the CA over a database, with the secret of its replicas."""

from functools import partial

from app.ca.repository import SqlCaRepository
from app.ca.repository.authentic import AuthenticTables
from app.db.macs import RowMacs
from app.db.transactions import Transactions
from app.telemetry.metrics import Metrics

SECRET = bytes(range(32))


def ca_transactions(engine, secret=SECRET, metrics=None):
    """Return the transactions of a replica with this secret; what is not authentic is counted in `metrics`."""
    refusals = (metrics or Metrics()).refusals
    tables = AuthenticTables(RowMacs(lambda: secret), lambda table, row: refusals.record("database", table, row=row))
    return Transactions(engine, partial(SqlCaRepository, tables=tables))
