import pytest

from app.quota.backends.memory import MemoryCounters
from tests.unit.quota.counters import DAY, MINUTE, CounterStoreContract, counted, hit


@pytest.fixture
def advance(clock):
    async def move(seconds):
        clock.advance(seconds)

    return move


def refused(counters, *hits):
    return [not outcome.counted for outcome in counters.add(hits)]


class TestMemoryCounters(CounterStoreContract):
    @pytest.fixture
    def counters(self, clock):
        return MemoryCounters(clock)


async def test_a_counter_without_room_is_refused_until_the_window_ends(clock):
    counters = MemoryCounters(clock, max_per_limit=2)
    assert refused(counters, hit("a"), hit("b"), hit("c"), hit("a")) == [False, False, True, False]
    (outcome,) = counters.add([hit("c")])
    assert (outcome.allowed, outcome.remaining) == (False, 0)
    assert 1 <= outcome.reset_seconds <= MINUTE
    clock.advance(MINUTE)
    assert await counted(counters, hit("c")) == [1]


async def test_a_probe_takes_no_room(clock):
    counters = MemoryCounters(clock, max_per_limit=1)
    assert await counted(counters, hit("a", hits=0), hit("b")) == [0, 1]
    assert await counted(counters, hit("c", hits=0)) == [0]


async def test_a_flood_under_one_limit_leaves_the_room_of_others(clock):
    counters = MemoryCounters(clock, max_per_limit=3)
    assert refused(counters, *(hit(str(number)) for number in range(5))) == [False] * 3 + [True] * 2
    assert refused(counters, hit("a", limit_id="other"), hit("a", seconds=DAY)) == [False, False]


async def test_floods_that_fill_the_store_leave_each_limit_its_reserve(clock):
    counters = MemoryCounters(clock, max_per_limit=5, max_counters=10, reserved=2)
    for flooded in range(3):
        counters.add([hit(str(number), limit_id=f"flooded {flooded}") for number in range(9)])
    assert counters.held == 5 + 5 + 2
    assert refused(counters, *(hit(str(number), limit_id="other") for number in range(3))) == [False, False, True]


async def test_ended_windows_of_other_limits_are_forgotten(clock):
    counters = MemoryCounters(clock)
    counters.add([hit("a"), hit("b"), hit("c", seconds=DAY)])
    clock.advance(MINUTE)
    assert refused(counters, hit("d", seconds=1)) == [False]
    assert counters.held == 2
    assert await counted(counters, hit("a", hits=0), hit("c", hits=0, seconds=DAY)) == [0, 1]


async def test_counters_of_a_limit_that_was_deleted_are_freed(clock):
    counters = MemoryCounters(clock, max_per_limit=2)
    counters.add([hit("a"), hit("b"), hit("a", seconds=DAY)])
    counters.retain({hit(seconds=DAY).limit_id})
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
