"""The secret behind the MACs of the CA's rows: where it is, the rows that its first start adopts, and its rotation."""

from functools import partial

from sqlalchemy.ext.asyncio import AsyncEngine

from app.authz.repository import SqlApiKeyRepository, authentic_keys
from app.ca.backends.replica_secret import ReplicaSecret
from app.ca.repository import SqlCaRepository
from app.ca.repository.authentic import AuthenticTables
from app.core.errors import PreconditionError
from app.db.engine import create_engine, dispose
from app.db.macs import RowMacs
from app.db.transactions import Transactions
from app.settings import Settings
from app.telemetry.metrics import Metrics


def replica_secret(settings: Settings) -> ReplicaSecret:
    """Return the secret that the settings name, which is not read yet."""
    named = settings.ca.secret_file
    return ReplicaSecret(named or settings.data_dir / "keys" / "replica.secret", required=named is not None)


def ca_transactions(
    engine: AsyncEngine, macs: RowMacs, trusted_root: str | None, metrics: Metrics
) -> Transactions[SqlCaRepository]:
    """Return the transactions of the CA; rows that are not authentic are counted in `metrics`."""
    tables = AuthenticTables(macs, partial(_refused, metrics), trusted_root)
    return Transactions(engine, partial(SqlCaRepository, tables=tables))


def api_key_transactions(engine: AsyncEngine, macs: RowMacs, metrics: Metrics) -> Transactions[SqlApiKeyRepository]:
    """Return the transactions of API keys; rows that are not authentic are counted in `metrics`."""
    keys = authentic_keys(macs, partial(_refused, metrics))
    return Transactions(engine, partial(SqlApiKeyRepository, keys=keys))


def _refused(metrics: Metrics, table: str, row: str) -> None:
    metrics.refusals.record("database", table, row=row)


async def adopt_rows(transactions: Transactions[SqlCaRepository], secret: ReplicaSecret, *, is_ours: bool) -> None:
    """Open the secret. The start that makes it adopts the rows that have no MAC yet; no later one does.

    A database that is not ours, but other replicas', is left alone. Raises PreconditionError as `ReplicaSecret.open`
    does, and if the database has rows of another secret.
    """
    if not await secret.open():
        if is_ours:
            async with transactions() as repository:
                await repository.adopt()
        await secret.settle()


async def rotate_secret(settings: Settings, *, trust_rows: bool) -> int:
    """Replace the secret, and give the rows that it authenticates MACs of the new one; return how many those were.

    With `trust_rows` all roots, entries, bans and API keys get one, also those whose MAC is wrong or missing: for a
    lost secret. No replica may run meanwhile. It can be repeated if it was interrupted.
    """
    secret = replica_secret(settings)
    if not await secret.open() and not trust_rows:
        raise PreconditionError("there is no secret to replace: the next start of the control plane makes one")
    before, successor = secret.value(), await secret.successor()
    known = None if trust_rows else RowMacs(lambda: before)
    engine = create_engine(settings.database_url)
    try:
        macs, metrics = RowMacs(lambda: successor), Metrics()
        async with ca_transactions(engine, macs, None, metrics)() as repository:
            renewed = await repository.renew_macs(known)
        async with api_key_transactions(engine, macs, metrics)() as repository:
            renewed += await repository.renew_macs(known)
    finally:
        await dispose(engine)
    await secret.settle()
    return renewed
