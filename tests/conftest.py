"""What all tests have, and how hypothesis runs: without a deadline for an example, which a busy machine would miss."""

import pytest
from hypothesis import settings

from app.telemetry.metrics import Metrics
from tests.fakes.clock import ManualClock

settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def metrics():
    return Metrics()
