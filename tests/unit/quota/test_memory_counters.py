import asyncio

import pytest

from app.quota.backends import memory as memory_module
from app.quota.backends.memory import MAX_WIDTH, MIN_WIDTH, SHARE_OF_CELLS, MemoryCounters
from app.quota.backends.sketch import ROWS
from tests.support.counters import DAY, LIMIT, MINUTE, CounterStoreContract, counted, hit


@pytest.fixture
def advance(clock):
    async def move(seconds):
        clock.advance(seconds)

    return move


SECRET = bytes(32)


def exact(counters, *hits):
    return [outcome.exact for outcome in counters.add(hits)]


def numbered(first, last, **fields):
    return [hit(str(number), **fields) for number in range(first, last)]


class TestMemoryCounters(CounterStoreContract):
    @pytest.fixture
    def counters(self, clock):
        return MemoryCounters(clock)


async def test_a_key_without_room_is_counted_until_the_window_ends(clock):
    counters = MemoryCounters(clock, max_per_limit=2, secret=SECRET)
    assert exact(counters, hit("a"), hit("b"), hit("c"), hit("a")) == [True, True, False, True]
    assert await counted(counters, hit("c"), hit("c", hits=7), hit("c", hits=0)) == [2, 9, 9]
    over, probe = counters.add([hit("c", hits=LIMIT), hit("c", hits=0)])
    assert (over.allowed, over.remaining, probe.allowed) == (False, 0, False)
    assert await counted(counters, hit("a", hits=0)) == [2]
    clock.advance(MINUTE)
    assert await counted(counters, hit("c")) == [1]


async def test_a_key_that_was_counted_with_others_keeps_its_count_where_room_returns(clock):
    counters = MemoryCounters(clock, max_counters=1, secret=SECRET)
    assert exact(counters, hit("a"), hit("b", hits=5, seconds=DAY)) == [True, False]
    clock.advance(MINUTE)
    assert await counted(counters, hit("b", hits=0, seconds=DAY), hit("b", seconds=DAY)) == [5, 6]
    assert exact(counters, hit("b", seconds=DAY)) == [True]


async def test_a_probe_takes_no_room(clock):
    counters = MemoryCounters(clock, max_per_limit=1)
    assert await counted(counters, hit("a", hits=0), hit("b")) == [0, 1]
    assert await counted(counters, hit("c", hits=0)) == [0]


async def test_a_flood_under_one_limit_leaves_the_room_of_others(clock):
    counters = MemoryCounters(clock, max_per_limit=3)
    assert exact(counters, *numbered(0, 5)) == [True] * 3 + [False] * 2
    assert exact(counters, hit("a", limit_id="other"), hit("a", seconds=DAY)) == [True, True]


async def test_a_flood_of_keys_refuses_neither_known_keys_nor_new_ones(clock):
    """110,000 invented keys under a limit of 10, over which honest callers keep what is theirs."""
    counters = MemoryCounters(clock, secret=SECRET)
    known = [hit(f"known {number}", hits=3, requests=10) for number in range(100)]
    counters.add(known)
    for first in range(0, 110_000, 10_000):
        counters.add(numbered(first, first + 10_000, requests=10))
    assert [outcome.remaining for outcome in counters.add(known)] == [4] * 100
    fresh = [hit(f"new {number}", hits=9, requests=10) for number in range(1000)]
    assert all(outcome.allowed for outcome in counters.add(fresh))
    again = [each._replace(hits=2) for each in (*known, *fresh)]
    assert [outcome.allowed for outcome in counters.add(again)] == [True] * 100 + [False] * 1000


async def test_keys_with_hits_beyond_every_limit_do_not_take_the_limits_of_others(clock):
    counters = MemoryCounters(clock, max_per_limit=0, secret=SECRET)
    counters.add(numbered(0, 1000, hits=2**32 - 1))
    honest = [hit(f"honest {number}", hits=LIMIT) for number in range(1000)]
    assert all(outcome.allowed for outcome in counters.add(honest))


async def test_floods_that_fill_the_store_take_no_limit_of_a_key_under_another(clock):
    counters = MemoryCounters(clock, max_per_limit=500, max_counters=1000, secret=SECRET)
    for flooded in range(3):
        counters.add(numbered(0, 2000, limit_id=f"flooded {flooded}"))
    assert counters.held == 1000
    outcomes = counters.add(numbered(0, 200, hits=LIMIT, limit_id="other"))
    assert [(outcome.allowed, outcome.exact) for outcome in outcomes] == [(True, False)] * 200


async def test_cells_are_bounded_and_freed_with_their_limits(clock):
    counters = MemoryCounters(clock, max_counters=0, max_cells=SHARE_OF_CELLS * ROWS * MAX_WIDTH)
    for number in range(120):
        counters.add([hit(limit_id=f"limit {number}", seconds=(number % 2) * DAY + MINUTE)])
    widths = [room.shared.cells // ROWS for room in counters._rooms.values()]
    assert widths == sorted(widths, reverse=True)
    assert (widths[0], widths[-1]) == (MAX_WIDTH, MIN_WIDTH)
    assert counters._cells == ROWS * sum(widths) <= (SHARE_OF_CELLS * MAX_WIDTH + 120 * MIN_WIDTH) * ROWS
    clock.advance(MINUTE)
    counters.add([])
    assert counters._cells == ROWS * sum(widths[1::2])
    await counters.retain(set())
    assert counters._cells == 0


async def test_ended_windows_of_other_limits_are_forgotten(clock):
    counters = MemoryCounters(clock)
    counters.add([hit("a"), hit("b"), hit("c", seconds=DAY)])
    clock.advance(MINUTE)
    counters.add([hit("d", seconds=1)])
    assert counters.held == 2
    assert await counted(counters, hit("a", hits=0), hit("c", hits=0, seconds=DAY)) == [0, 1]


async def test_counters_of_a_limit_that_was_deleted_are_freed(clock):
    counters = MemoryCounters(clock, max_per_limit=2)
    counters.add([hit("a"), hit("b"), hit("a", seconds=DAY)])
    await counters.retain({hit(seconds=DAY).limit_id})
    assert counters.held == 1
    assert await counted(counters, hit("c"), hit("a", seconds=DAY)) == [1, 2]
    clock.advance(DAY)
    assert await counted(counters, hit("c")) == [1]
    assert counters.held == 1


async def test_a_clock_that_goes_back_starts_no_window_again(clock):
    counters = MemoryCounters(clock)
    await counted(counters, hit(hits=9))
    clock.advance(MINUTE)
    assert await counted(counters, hit(hits=2)) == [2]
    clock.turn_back(MINUTE)
    assert await counted(counters, hit()) == [3]


async def test_a_long_key_takes_no_more_room_than_a_digest(clock):
    counters = MemoryCounters(clock)
    counters.add([hit("x" * 1_000_000)])
    (held,) = counters._rooms[hit().limit_id].states
    assert len(held) <= 64


async def test_the_counters_of_a_deleted_limit_are_freed_in_steps(clock, monkeypatch):
    monkeypatch.setattr(memory_module, "FREED_AT_ONCE", 10)
    counters = MemoryCounters(clock)
    counters.add([*numbered(0, 40), *numbered(0, 20, limit_id="other"), *numbered(0, 5, limit_id="kept")])
    turns = 0

    async def count_turns():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count_turns())
    await asyncio.sleep(0)
    freeing = asyncio.create_task(counters.retain({hit(limit_id="kept").limit_id}))
    await asyncio.sleep(0)
    assert counters.held == 5
    assert await counted(counters, hit("0"), hit("0", limit_id="kept")) == [1, 2]
    await freeing
    counting.cancel()
    assert turns >= 6
    assert await counted(counters, hit("0"), hit("0", limit_id="other")) == [2, 1]
