"""API keys in memory: a repository whose transactions roll back."""

import copy
from contextlib import asynccontextmanager
from dataclasses import replace

from app.authz.ports import ApiKeyRepository
from app.core.errors import UnavailableError


class MemoryApiKeys:
    """Transactions over one repository; `away` makes them fail as a database that is away does."""

    def __init__(self) -> None:
        self.state = _Repository()
        self.away = False

    @asynccontextmanager
    async def __call__(self):
        if self.away:
            raise UnavailableError("the database is away")
        before = copy.copy(self.state.__dict__)
        before["keys"], before["audited"] = dict(self.state.keys), list(self.state.audited)
        try:
            yield self.state
        except BaseException:
            self.state.__dict__ = before
            raise


class _Repository(ApiKeyRepository):
    def __init__(self) -> None:
        self.keys, self.audited, self.number, self.reads = {}, [], 0, 0

    async def record(self, *records):
        self.audited += records

    async def revision(self):
        return self.number

    async def next_revision(self):
        self.number += 1
        return self.number

    async def count(self):
        return len(self.keys)

    async def get(self, key_id):
        return self.keys.get(key_id)

    async def page(self, after, limit):
        self.reads += 1
        return [self.keys[key_id] for key_id in sorted(self.keys) if after is None or key_id > after][:limit]

    async def changed(self, since):
        self.reads += 1
        return [key for key in self.keys.values() if key.revision > since]

    async def add(self, key):
        self.keys[key.id] = key

    async def revoke(self, key_id, now, revision):
        key = self.keys.get(key_id)
        if key is None or key.revoked_at is not None:
            return None
        self.keys[key_id] = replace(key, revoked_at=now, revision=revision)
        return self.keys[key_id]

    async def remove_ended(self, before, limit):
        ended = [
            key.id for key in self.keys.values() if any(at and at < before for at in (key.expires_at, key.revoked_at))
        ][:limit]
        for key_id in ended:
            del self.keys[key_id]
        return len(ended)
