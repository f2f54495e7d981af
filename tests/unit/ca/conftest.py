import pytest

from app.ca.model import CaConfig
from app.ca.service import CaService
from app.spiffe.id import TrustDomain
from app.telemetry.metrics import Metrics
from tests.fakes.ca_store import MemoryKeyStore, MemoryPublisher, MemoryTransactions
from tests.fakes.clock import ManualClock


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def config():
    return CaConfig(TrustDomain("example.org"))


@pytest.fixture
def transactions():
    return MemoryTransactions()


@pytest.fixture
def keys():
    return MemoryKeyStore()


@pytest.fixture
def publisher():
    return MemoryPublisher()


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
async def ca(config, transactions, keys, publisher, clock, metrics):
    """A CA that has started: one root, one signing authority."""
    service = CaService(config, transactions, keys, publisher, clock, metrics)
    await service.start()
    return service
