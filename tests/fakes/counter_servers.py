"""Servers of a counter store that count in memory, and are away while a test says so."""

from app.quota.backends.memory import MemoryCounters


class FakeServers:
    """Counts as one server would. While it is not `available` nothing is sent; while `late`, nothing is answered."""

    answer_seconds = 0.1

    def __init__(self, clock):
        self.counts_jointly = True
        self.counters = MemoryCounters(clock)
        self.available = True
        self.late = False
        self.batches = []

    def add(self, hits, finish, joint=None):
        assert joint is None or self.counts_jointly
        if not self.available:
            return None
        self.batches.append([hit for hit, _, _ in hits])
        return self._count(self.batches[-1], finish, joint)

    async def _count(self, hits, finish, joint):
        prepared = self.counters.prepare(hits)
        return finish([None] * len(hits) if self.late else self.counters.count(prepared, joint))

    async def run(self):
        """There is nothing to keep."""
