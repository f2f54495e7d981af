"""Quota's ports in memory."""

from contextlib import asynccontextmanager

from app.core.errors import UnavailableError


class MemoryConfigs:
    """Configurations that several services, as replicas do, can share; a transaction that raises leaves no trace."""

    def __init__(self):
        self.configs = {}
        self.number = 0
        self.away = False

    @asynccontextmanager
    async def __call__(self):
        if self.away:
            raise UnavailableError("the database is away")
        draft = _Draft(dict(self.configs), self.number)
        yield draft
        self.configs, self.number = draft.configs, draft.number


class _Draft:
    def __init__(self, configs, number):
        self.configs = configs
        self.number = number

    async def next_revision(self):
        self.number += 1
        return self.number

    async def revision(self):
        return self.number

    async def get(self, domain):
        return self.configs.get(domain)

    async def put(self, config):
        self.configs[config.domain] = config

    async def delete(self, domain):
        del self.configs[domain]

    async def all(self):
        return list(self.configs.values())

    async def page(self, after, limit):
        names = sorted(name for name in self.configs if after is None or name > after)
        return [self.configs[name] for name in names[:limit]]


class AwayCounters:
    """Counters that cannot be reached."""

    async def add(self, hits):
        raise UnavailableError("the counters are away; try again")


class BrokenCounters:
    """Counters with a fault of their own."""

    async def add(self, hits):
        raise ZeroDivisionError
