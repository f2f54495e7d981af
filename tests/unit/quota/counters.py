"""What every CounterStore must do. A backend's test class derives from the contract and has a `counters` fixture."""

from app.quota.model import Hit

DAY = 86_400
MINUTE = 60


def hit(name="k", hits=1, start=0, unit_seconds=MINUTE):
    return Hit(("domain", "key", name), unit_seconds, start, hits)


class CounterStoreContract:
    async def test_hits_add_up_within_a_window(self, counters):
        assert await counters.add([hit()]) == [1]
        assert await counters.add([hit(hits=4)]) == [5]

    async def test_keys_are_counted_apart(self, counters):
        assert await counters.add([hit("a"), hit("b", hits=3)]) == [1, 3]
        assert await counters.add([hit("b"), hit("a")]) == [4, 2]

    async def test_keys_that_look_alike_when_joined_are_counted_apart(self, counters):
        keys = [("d", "a", "b_c"), ("d", "a_b", "c"), ("d", "a", "b", "c", ""), ("d", "a", "bc"), ("d", "ab", "c")]
        assert await counters.add([Hit(key, MINUTE, 0, 1) for key in keys]) == [1] * len(keys)

    async def test_long_keys_are_counted_apart(self, counters):
        long = "x" * 10_000
        keys = [
            ("d", "k", long),
            ("d", "k", long + "y"),
            ("d", "k" + long, ""),
            ("d" + long, "k", ""),
            ("d", long, "k"),
            (long,),
        ]
        assert await counters.add([Hit(key, MINUTE, 0, 1) for key in keys]) == [1] * len(keys)
        assert await counters.add([Hit(keys[0], MINUTE, 0, 1)]) == [2]

    async def test_any_text_can_be_counted(self, counters):
        keys = [("d", "k", "\x00"), ("d", "k", "ключ"), ("d", "k", "💶"), ("d", "k", "a b\r\n"), ("d", "", "")]
        assert await counters.add([Hit(key, MINUTE, 0, 1) for key in keys]) == [1] * len(keys)

    async def test_one_key_twice_in_a_step_is_counted_one_after_the_other(self, counters):
        assert await counters.add([hit(hits=2), hit(hits=3)]) == [2, 5]

    async def test_units_are_counted_apart(self, counters):
        assert await counters.add([hit(), hit(unit_seconds=DAY)]) == [1, 1]
        assert await counters.add([hit(unit_seconds=DAY)]) == [2]

    async def test_no_hits_read_the_count(self, counters):
        assert await counters.add([hit(hits=0)]) == [0]
        await counters.add([hit(hits=3)])
        assert await counters.add([hit(hits=0)]) == [3]
        assert await counters.add([hit()]) == [4]

    async def test_a_new_window_starts_at_nothing(self, counters):
        await counters.add([hit(hits=9), hit(hits=9, unit_seconds=DAY)])
        assert await counters.add([hit(start=60), hit(unit_seconds=DAY)]) == [1, 10]

    async def test_a_closed_window_does_not_come_back(self, counters):
        await counters.add([hit(hits=9)])
        await counters.add([hit(start=60, hits=2)])
        assert await counters.add([hit(start=0)]) == [3]  # neither the 9 of the old window nor a fresh start
        assert await counters.add([hit(start=60)]) == [4]

    async def test_counts_go_beyond_every_limit(self, counters):
        (first,) = await counters.add([hit(hits=2**32 - 1)])
        (second,) = await counters.add([hit(hits=2**32 - 1)])
        assert first == 2**32 - 1
        assert second > 2**32 - 1

    async def test_nothing_to_count_is_an_empty_answer(self, counters):
        assert list(await counters.add([])) == []
