import pytest

from app.ca.backends.disk import BundleFile, DiskKeyStore
from app.ca.model import CaConfig
from app.ca.service import CaService
from app.core.clock import SystemClock
from app.db.base import Base
from app.db.engine import dispose
from app.main.parts import make_parts
from app.settings import load
from app.spiffe.id import TrustDomain
from app.telemetry.metrics import Metrics
from tests.support.ca_store import ca_transactions
from tests.support.serving import environment


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


@pytest.fixture
async def control_plane(database_url, tmp_path):
    """Makes the parts of a control plane with a data directory of the given name, on one database."""
    made = []

    def make(name, **settings):
        directory = tmp_path / name
        directory.mkdir(mode=0o700, exist_ok=True)
        variables = environment(directory, database_url=database_url, **settings)
        parts = make_parts(load(variables).settings, SystemClock())
        made.append(parts.engine)
        return parts

    yield make
    for engine in made:
        await dispose(engine)
