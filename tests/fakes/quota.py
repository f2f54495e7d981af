"""Quota's ports in memory."""

import asyncio
from contextlib import asynccontextmanager
from inspect import isawaitable

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


class FetchedCounters:
    """Counters that have to be waited for, as those of a store over a network."""

    def __init__(self, counters):
        self._counters = counters

    async def add(self, hits):
        await asyncio.sleep(0)
        return self._counters.add(hits)

    def retain(self, limits):
        self._counters.retain(limits)


async def settled(answer):
    """The answer itself, waited for where it is not known at once."""
    return await answer if isawaitable(answer) else answer


class AwayCounters:
    """Counters that cannot be reached."""

    def add(self, hits):
        raise UnavailableError("the counters are away; try again")

    def retain(self, limits):
        """There is nothing to free."""


class BrokenCounters:
    """Counters with a fault of their own."""

    def add(self, hits):
        raise ZeroDivisionError

    def retain(self, limits):
        """There is nothing to free."""
