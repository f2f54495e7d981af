"""The contract of ConfigRepository, over each real database."""

import asyncio
from datetime import UTC, datetime

import pytest

from app.core.errors import MeshwardError
from app.db.base import Base
from app.db.transactions import Transactions
from app.quota.model import StoredConfig
from app.quota.repository import SqlConfigRepository

THEN = datetime(2026, 5, 4, 3, 2, 1, 987654, tzinfo=UTC)


@pytest.fixture
async def transactions(engine):
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    return Transactions(engine, SqlConfigRepository)


def config(domain="edge", revision=1, number=1):
    document = {"domain": domain, "descriptors": [{"key": "k", "value": "ключ 💶", "number": number}]}
    return StoredConfig(domain, document, revision, THEN)


async def test_what_was_put_comes_back_as_it_was(transactions):
    async with transactions() as repository:
        await repository.put(config())
    async with transactions() as repository:
        assert await repository.get("edge") == config()
        assert await repository.get("Edge") is None
        assert await repository.all() == [config()]


async def test_putting_again_replaces(transactions):
    async with transactions() as repository:
        await repository.put(config())
    async with transactions() as repository:
        before = await repository.get("edge")
        await repository.put(config(revision=2, number=2))
        assert (before.revision, (await repository.get("edge")).revision) == (1, 2)
        assert await repository.all() == [config(revision=2, number=2)]
    async with transactions() as repository:
        assert await repository.all() == [config(revision=2, number=2)]


async def test_deleting_removes_one_domain_alone(transactions):
    async with transactions() as repository:
        await repository.put(config("a"))
        await repository.put(config("b"))
    async with transactions() as repository:
        assert await repository.get("a") is not None
        await repository.delete("a")
        assert [stored.domain for stored in await repository.all()] == ["b"]
    async with transactions() as repository:
        assert await repository.get("a") is None


async def test_revisions_count_up_from_nothing(transactions):
    async with transactions() as repository:
        assert await repository.revision() == 0
    for number in (1, 2, 3):
        async with transactions() as repository:
            assert await repository.next_revision() == number
            assert await repository.revision() == number


async def test_a_transaction_that_fails_leaves_nothing(transactions):
    class StopError(MeshwardError):
        pass

    async def fail():
        async with transactions() as repository:
            await repository.next_revision()
            await repository.put(config())
            raise StopError("stop")

    with pytest.raises(StopError):
        await fail()
    async with transactions() as repository:
        assert await repository.revision() == 0
        assert await repository.all() == []


async def test_concurrent_writers_get_each_its_own_revision(transactions):
    async def write(number):
        async with transactions() as repository:
            revision = await repository.next_revision()
            await repository.put(config(f"domain-{number}", revision))
            return revision, len(await repository.all())

    written = await asyncio.wait_for(asyncio.gather(*(write(number) for number in range(8))), timeout=30)
    # Each sees what every earlier revision wrote: the revision orders the transactions.
    assert sorted(written) == [(number, number) for number in range(1, 9)]


async def test_pages_follow_each_other_in_order_and_miss_nothing(transactions):
    names = ["a", "a/b", "b", "d", "zz"]
    async with transactions() as repository:
        for name in names:
            await repository.put(config(name))
    async with transactions() as repository:
        seen, after = [], None
        while page := await repository.page(after, 2):
            assert len(page) <= 2
            seen += [stored.domain for stored in page]
            after = seen[-1]
        assert sorted(seen) == names
