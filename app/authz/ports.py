"""What authorization's service needs from outside, as Protocols."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from app.authz.model import StoredPolicy

PolicyKey = tuple[str, str]
"""Namespace and name."""


class PolicyRepository(Protocol):
    """The stored policies, within one transaction."""

    async def next_revision(self) -> int:
        """Return the number of the change that this transaction makes; no other writer goes on until it ends."""
        ...

    async def revision(self) -> int:
        """Return the number of the last change, 0 if there was none."""
        ...

    async def get(self, namespace: str, name: str) -> StoredPolicy | None:
        """Return the policy."""
        ...

    async def put(self, policy: StoredPolicy) -> None:
        """Keep `policy` in place of what had its namespace and name."""
        ...

    async def delete(self, namespace: str, name: str) -> None:
        """Remove the policy."""
        ...

    async def count(self) -> int:
        """Return how many policies there are."""
        ...

    async def all(self) -> list[StoredPolicy]:
        """Return every policy."""
        ...

    async def page(self, after: PolicyKey | None, limit: int, namespace: str | None) -> list[StoredPolicy]:
        """Return up to `limit` policies after the key `after`, in order of key; of one namespace if it is given."""
        ...


PolicyTransactions = Callable[[], AbstractAsyncContextManager[PolicyRepository]]
