import pytest

from app.quota.backends.memory import MemoryCounters
from app.quota.service import QuotaService
from app.telemetry.metrics import Metrics
from tests.fakes.clock import ManualClock
from tests.fakes.quota import MemoryConfigs


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def configs():
    return MemoryConfigs()


@pytest.fixture
def service(configs, clock, metrics):
    return QuotaService(configs, MemoryCounters(clock), clock, metrics)
