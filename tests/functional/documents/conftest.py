"""The tables on each real database, and transactions over the documents of a kind."""

from functools import partial

import pytest

from app.db.base import Base
from app.db.transactions import Transactions
from app.documents.repository import SqlDocumentRepository


@pytest.fixture
async def of_kind(engine):
    """The transactions of the kind with a name."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    return lambda kind: Transactions(engine, partial(SqlDocumentRepository, kind=kind))


@pytest.fixture
def transactions(of_kind):
    return of_kind("note")
