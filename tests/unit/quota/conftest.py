import pytest

from app.quota.backends.memory import MemoryCounters
from app.telemetry.metrics import Metrics
from tests.fakes.clock import ManualClock
from tests.fakes.documents import MemoryDocuments
from tests.fakes.quota import Quota


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def configs():
    return MemoryDocuments()


@pytest.fixture
def service(configs, clock, metrics):
    return Quota(configs, MemoryCounters(clock), clock, metrics)
