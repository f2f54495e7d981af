import pytest

from app.quota.backends.memory import MemoryCounters
from tests.unit.quota.counters import DAY, MINUTE, CounterStoreContract, hit


class TestMemoryCounters(CounterStoreContract):
    @pytest.fixture
    def counters(self):
        return MemoryCounters()


async def test_what_there_is_no_room_for_is_not_counted_until_the_window_ends():
    counters = MemoryCounters(max_keys=2)
    assert await counters.add([hit("a"), hit("b"), hit("c"), hit("a")]) == [1, 1, None, 2]
    assert await counters.add([hit("c", start=60)]) == [1]


async def test_a_probe_takes_no_room():
    counters = MemoryCounters(max_keys=1)
    assert await counters.add([hit("a", hits=0), hit("b")]) == [0, 1]
    assert await counters.add([hit("c", hits=0)]) == [0]


async def test_a_full_window_leaves_the_room_of_other_units_alone():
    counters = MemoryCounters(max_keys=1)
    assert await counters.add([hit("a", unit_seconds=DAY), hit("b", unit_seconds=DAY), hit("c")]) == [1, None, 1]


async def test_ended_windows_of_other_units_are_forgotten():
    counters = MemoryCounters()
    await counters.add([hit("a"), hit("b"), hit("c", unit_seconds=DAY)])
    await counters.add([hit("d", start=120, unit_seconds=1)])
    assert counters.keys() == 2
    assert await counters.add([hit("a", hits=0, start=0), hit("c", hits=0, unit_seconds=DAY)]) == [0, 1]


async def test_a_long_key_takes_no_more_room_than_a_digest():
    counters = MemoryCounters()
    await counters.add([hit("x" * 1_000_000)])
    (held,) = counters._windows[MINUTE].counts
    assert sum(map(len, held)) <= 64
