import pytest

from app.quota.backends.memory import MemoryCounters
from tests.fakes.documents import MemoryDocuments
from tests.fakes.quota import Quota


@pytest.fixture
def configs():
    return MemoryDocuments()


@pytest.fixture
def service(configs, clock, metrics):
    return Quota(configs, MemoryCounters(clock), clock, metrics)
