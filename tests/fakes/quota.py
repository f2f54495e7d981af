"""The quota service with its configurations in memory, and counters that have to be waited for or fail."""

import asyncio
from inspect import isawaitable
from math import inf

from envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse

from app.core.errors import UnavailableError
from app.documents.model import DocumentKey
from app.quota.backends.memory import MemoryCounters
from app.quota.service import QuotaService
from app.spiffe.principal import ANONYMOUS
from app.telemetry.metrics import Metrics
from tests.fakes.clock import ManualClock
from tests.fakes.documents import MemoryDocuments
from tests.fakes.principals import OPERATOR


class Quota(QuotaService):
    """The service, changed by an operator."""

    def __init__(self, source=None, counters=None, clock=None, metrics=None, **options):
        clock, metrics = clock or ManualClock(), metrics or Metrics()
        self.store = counters or MemoryCounters(clock)
        super().__init__(source or MemoryDocuments(), self.store, clock, metrics, **options)

    def ask(self, domain, descriptors, hits_addend):
        return self.should_rate_limit(ANONYMOUS, self.match(domain, descriptors, hits_addend))

    async def put(self, domain, document, expected_version=None):
        return await self.documents.replace(OPERATOR, DocumentKey("", domain), document, expected_version)

    async def delete(self, domain, expected_version=None):
        await self.documents.delete(OPERATOR, DocumentKey("", domain), expected_version)


class FetchedCounters:
    """Counters that have to be waited for, as those of a store over a network."""

    answer_seconds = inf

    def __init__(self, counters):
        self._counters = counters

    def prepare(self, hits):
        return self._counters.prepare(hits)

    def add(self, hits):
        return self.count(self.prepare(hits))

    async def count(self, hits, joint=None):
        await asyncio.sleep(0)
        return self._counters.count(hits, joint)

    async def retain(self, limits):
        await self._counters.retain(limits)

    async def page(self, limits, cursor, count):
        return await self._counters.page(limits, cursor, count)


def respond(rpc, request, context):
    """Make the call with a RateLimitRequest, which is answered at once, and return the RateLimitResponse."""
    return RateLimitResponse.FromString(rpc.ShouldRateLimit(request.SerializeToString(), context).SerializeToString())


async def settled(answer):
    """The answer itself, waited for where it is not known at once."""
    return await answer if isawaitable(answer) else answer


class AwayCounters:
    """Counters that cannot be reached."""

    answer_seconds = inf

    def prepare(self, hits):
        return hits

    def add(self, hits, joint=None):
        raise UnavailableError("the counters are away; try again")

    count = add

    async def page(self, limits, cursor, count):
        raise UnavailableError("the counters are away; try again")

    async def read(self, names, limits):
        raise UnavailableError("the counters are away; try again")

    async def retain(self, limits):
        """There is nothing to free."""


class BrokenCounters:
    """Counters with a fault of their own."""

    answer_seconds = inf

    def prepare(self, hits):
        return hits

    def add(self, hits, joint=None):
        raise ZeroDivisionError

    count = add

    async def retain(self, limits):
        """There is nothing to free."""
