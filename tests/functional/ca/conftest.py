import pytest

from app.ca.backends.disk import BundleFile, DiskKeyStore
from app.ca.model import CaConfig
from app.ca.service import CaService
from app.core.clock import SystemClock
from app.db.base import Base
from app.spiffe.id import TrustDomain
from app.telemetry.metrics import Metrics
from tests.support.ca_store import ca_transactions


@pytest.fixture
async def ca(engine, tmp_path):
    """A started CA on an empty database, once of each kind, with its keys on disk and the machine's clock."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    service = CaService(
        CaConfig(TrustDomain("example.org"), server_dns_names=("localhost",)),
        ca_transactions(engine),
        DiskKeyStore(tmp_path / "keys"),
        BundleFile(tmp_path / "bundle.pem"),
        SystemClock(),
        Metrics(),
    )
    await service.start()
    return service
