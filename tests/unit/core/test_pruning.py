"""When old records are removed, and how many at once."""

import pytest

from app.core import pruning
from app.core.errors import UnavailableError
from app.core.pruning import MAX_REMOVED_PER_PASS, Pruning
from tests.fakes.clock import ManualClock


class Store:
    def __init__(self, old) -> None:
        self.old, self.passes, self.away = old, 0, False

    async def remove(self, limit):
        if self.away:
            raise UnavailableError("the database is away")
        self.passes += 1
        removed = min(self.old, limit)
        self.old -= removed
        return removed


async def test_a_pass_that_leaves_nothing_is_not_repeated_within_the_hour():
    clock, store = ManualClock(), Store(old=3)
    pruned = Pruning(clock, store.remove)
    for _ in range(5):
        await pruned.maintain()
        clock.advance(pruning.INTERVAL_SECONDS / 5)
    assert (store.old, store.passes) == (0, 1)
    await pruned.maintain()
    assert store.passes == 2


async def test_a_pass_that_reached_its_bound_is_repeated_at_once():
    store = Store(old=2 * MAX_REMOVED_PER_PASS + 1)
    pruned = Pruning(ManualClock(), store.remove)
    left = []
    for _ in range(4):
        await pruned.maintain()
        left.append(store.old)
    assert left == [MAX_REMOVED_PER_PASS + 1, 1, 0, 0]
    assert store.passes == 3


async def test_a_pass_that_failed_is_repeated_at_once():
    store = Store(old=1)
    pruned = Pruning(ManualClock(), store.remove)
    store.away = True
    with pytest.raises(UnavailableError):
        await pruned.maintain()
    store.away = False
    await pruned.maintain()
    assert store.old == 0
