"""One contract for every counter store, on real servers."""

import pytest

from tests.support.counters import CounterStoreContract
from tests.support.counting import counting


@pytest.fixture
def advance(clock):
    async def move(seconds):
        clock.advance(seconds)

    return move


class TestValkey(CounterStoreContract):
    @pytest.fixture
    async def counters(self, clock, valkey_server):
        with valkey_server.client() as client:
            client.flushall()
        async with counting(valkey_server.url, clock) as counters:
            yield counters
