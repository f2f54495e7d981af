"""Quota over each real database: restarts and replicas."""

import asyncio

import pytest

from app.core.clock import SystemClock
from app.core.errors import ConflictError
from app.db.base import Base
from app.db.transactions import Transactions
from app.quota.backends.memory import MemoryCounters
from app.quota.model import Code, Descriptor
from app.quota.repository import SqlConfigRepository
from app.quota.service import QuotaService
from app.telemetry.metrics import Metrics
from tests.fakes.quota import settled

ASKED = [Descriptor((("k", "v"),))]


@pytest.fixture
async def replica(engine):
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)

    async def start():
        clock = SystemClock()
        service = QuotaService(Transactions(engine, SqlConfigRepository), MemoryCounters(clock), clock, Metrics())
        await service.load()
        return service

    return start


def document(domain, number=0):
    return {
        "domain": domain,
        "descriptors": [{"key": "k", "rate_limit": {"unit": "year", "requests_per_unit": number}}],
    }


async def code(service, domain):
    return (await settled(service.should_rate_limit(domain, ASKED, 0))).code


async def test_configurations_survive_a_restart(replica):
    before = await replica()
    stored, _ = await before.put("edge", document("edge"))
    after = await replica()
    assert await code(after, "edge") is Code.OVER_LIMIT
    assert await after.get("edge") == stored


async def test_changes_of_one_replica_reach_the_other(replica):
    one, other = await replica(), await replica()
    await one.put("edge", document("edge"))
    assert await code(other, "edge") is Code.OK
    assert await other.refresh()
    assert await code(other, "edge") is Code.OVER_LIMIT
    assert not await other.refresh()


async def test_replicas_that_change_at_once_lose_nothing(replica):
    replicas = [await replica(), await replica()]
    domains = [f"d{number}" for number in range(6)]
    changes = (replicas[index % 2].put(domain, document(domain)) for index, domain in enumerate(domains))
    await asyncio.wait_for(asyncio.gather(*changes), timeout=30)
    for each in replicas:
        await each.refresh()
        assert [await code(each, domain) for domain in domains] == [Code.OVER_LIMIT] * len(domains)


async def test_of_two_changes_to_what_was_read_one_is_made(replica):
    one, other = await replica(), await replica()
    stored, _ = await one.put("edge", document("edge", 1))
    results = await asyncio.wait_for(
        asyncio.gather(
            one.put("edge", document("edge", 2), stored.revision),
            other.put("edge", document("edge", 3), stored.revision),
            return_exceptions=True,
        ),
        timeout=30,
    )
    assert sum(isinstance(result, ConflictError) for result in results) == 1
    assert sum(isinstance(result, tuple) for result in results) == 1
