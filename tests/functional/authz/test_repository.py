"""The contract of a PolicyRepository, on SQLite and PostgreSQL."""

import asyncio
from datetime import UTC, datetime

import pytest

from app.authz.model import AuthzOptions, StoredPolicy
from app.authz.repository import SqlPolicyRepository
from app.authz.service import PolicyService
from app.core.errors import InvalidInputError
from app.db.base import Base
from app.db.transactions import Transactions
from app.documents.parser import parse_documents
from app.telemetry.metrics import Metrics
from tests.fakes.authz import policy, request
from tests.fakes.clock import ManualClock

NOW = datetime(2026, 3, 4, 5, 6, 7, 890000, tzinfo=UTC)


@pytest.fixture
async def transactions(engine):
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    return Transactions(engine, SqlPolicyRepository)


def stored(namespace: str, name: str, version: int = 1, document: dict | None = None) -> StoredPolicy:
    return StoredPolicy(namespace, name, document or {"spec": {}}, version, NOW)


async def test_a_policy_comes_back_as_it_was_put(transactions):
    document = {"metadata": {"name": "a"}, "spec": {"x": [1, 2.5, None, True, "ä\u0001"]}}
    async with transactions() as repository:
        await repository.put(stored("shop", "a", 7, document))
    async with transactions() as repository:
        assert await repository.get("shop", "a") == stored("shop", "a", 7, document)
        assert await repository.get("shop", "b") is None


async def test_putting_replaces_and_deleting_removes(transactions):
    async with transactions() as repository:
        await repository.put(stored("shop", "a", 1))
        await repository.put(stored("shop", "a", 2))
        await repository.put(stored("web", "a", 3))
        assert await repository.count() == 2
    async with transactions() as repository:
        await repository.delete("shop", "a")
        await repository.delete("shop", "never")
    async with transactions() as repository:
        assert await repository.all() == [stored("web", "a", 3)]


async def test_revisions_count_changes_that_were_committed(transactions):
    async with transactions() as repository:
        assert await repository.revision() == 0
        assert await repository.next_revision() == 1

    async def change_and_fail() -> None:
        async with transactions() as repository:
            assert await repository.next_revision() == 2
            raise InvalidInputError("no")

    with pytest.raises(InvalidInputError):
        await change_and_fail()
    async with transactions() as repository:
        assert await repository.revision() == 1


async def test_writers_at_once_get_one_revision_each(transactions):
    async def change() -> int:
        async with transactions() as repository:
            return await repository.next_revision()

    assert sorted(await asyncio.gather(*(change() for _ in range(8)))) == list(range(1, 9))


async def test_pages_follow_the_key_and_skip_nothing(transactions):
    keys = [("a", "x"), ("a", "y"), ("b", "a"), ("b", "z"), ("c", "a")]
    async with transactions() as repository:
        for namespace, name in reversed(keys):
            await repository.put(stored(namespace, name))
    async with transactions() as repository:
        found: list[tuple[str, str]] = []
        while page := await repository.page(found[-1] if found else None, 2, None):
            found += [(policy.namespace, policy.name) for policy in page]
        assert found == keys
        assert [policy.name for policy in await repository.page(None, 9, "b")] == ["a", "z"]
        assert [policy.name for policy in await repository.page(("b", "a"), 9, "b")] == ["z"]


async def test_two_replicas_on_one_database_come_to_the_same_policies(transactions):
    one, two = (PolicyService(transactions, ManualClock(), Metrics(), AuthzOptions()) for _ in range(2))
    await one.load()
    await two.load()

    def applying(service: PolicyService, name: str, path: str):
        spec = f"{{action: DENY, rules: [{{to: [{{operation: {{paths: [{path}]}}}}]}}]}}"
        return service.apply(parse_documents(policy(spec, name).encode()))

    await asyncio.gather(*(applying(s, f"{n}-{i}", f"/{n}/{i}") for n, s in (("a", one), ("b", two)) for i in range(4)))
    for service in (one, two):
        await service.refresh()
        assert not any(service.check(request(f"/{n}/{i}")).allowed for n in "ab" for i in range(4))
        assert service.check(request("/c")).allowed
