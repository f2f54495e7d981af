import pytest

from app.ca.repository import SqlCaRepository
from app.db.base import Base
from app.db.transactions import Transactions


@pytest.fixture
async def transactions(engine):
    """The CA's transactions on an empty database, once of each kind."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    return Transactions(engine, SqlCaRepository)
