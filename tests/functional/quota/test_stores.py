"""One contract for every counter store, on real servers."""

import asyncio

import pytest

from app.quota.model import FixedWindow, Hit
from app.quota.rules.joint import AllOrNone
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

    async def test_two_processes_admit_no_more_than_fits_all_or_none(self, clock, counters, valkey_server):
        few, many = Hit("few", ("k",), FixedWindow(7, 86_400), 1), Hit("many", ("k",), FixedWindow(100, 86_400), 1)

        async def admitted(of):
            outcomes = await of.count(of.prepare([few, many]), AllOrNone([True, True]))
            return all(outcome.allowed for outcome in outcomes)

        async with counting(valkey_server.url, clock) as other:
            answers = await asyncio.gather(*(admitted(each) for each in (counters, other) for _ in range(10)))
            (last,) = await counters.add([many._replace(hits=0)])
        assert (sum(answers), last.remaining) == (7, 93)
