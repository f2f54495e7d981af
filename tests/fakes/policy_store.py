"""Policies in memory, as a PolicyRepository keeps them: a change is seen once its transaction has ended well."""

from contextlib import asynccontextmanager

from app.authz.model import StoredPolicy
from app.core.errors import UnavailableError


class MemoryPolicies:
    """The transactions. `away` makes every one fail as a database that is away does."""

    def __init__(self) -> None:
        self.policies: dict[tuple[str, str], StoredPolicy] = {}
        self.revision = 0
        self.away = False
        self.reads = 0

    @asynccontextmanager
    async def __call__(self):
        if self.away:
            raise UnavailableError("the database is away")
        repository = _Repository(self)
        yield repository
        self.policies, self.revision = repository.policies, repository.number


class _Repository:
    def __init__(self, store: MemoryPolicies) -> None:
        self.store = store
        self.policies = dict(store.policies)
        self.number = store.revision

    async def next_revision(self) -> int:
        self.number += 1
        return self.number

    async def revision(self) -> int:
        return self.number

    async def get(self, namespace: str, name: str) -> StoredPolicy | None:
        return self.policies.get((namespace, name))

    async def put(self, policy: StoredPolicy) -> None:
        self.policies[policy.namespace, policy.name] = policy

    async def delete(self, namespace: str, name: str) -> None:
        self.policies.pop((namespace, name), None)

    async def count(self) -> int:
        return len(self.policies)

    async def all(self) -> list[StoredPolicy]:
        self.store.reads += 1
        return list(self.policies.values())

    async def page(self, after, limit: int, namespace: str | None) -> list[StoredPolicy]:
        keys = [
            key
            for key in sorted(self.policies)
            if (after is None or key > after) and (namespace is None or key[0] == namespace)
        ]
        return [self.policies[key] for key in keys[:limit]]
