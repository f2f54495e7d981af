"""What every CounterStore must do.

A backend's test class derives from the contract and has two fixtures: `counters`, and `advance(seconds)`, which moves
the time of the store.
"""

from app.quota.model import FixedWindow, Hit
from tests.fakes.quota import settled

DAY = 86_400
MINUTE = 60
LIMIT = 100


def hit(name="k", hits=1, seconds=MINUTE, limit_id="domain", requests=LIMIT):
    return Hit(f"{limit_id} {seconds}", (name,), FixedWindow(requests, seconds), hits)


def hits_for(*keys):
    return [hit()._replace(key=key) for key in keys]


async def counted(counters, *hits):
    """What each of `hits` left of a limit that is far away."""
    return [LIMIT - outcome.remaining for outcome in await settled(counters.add(hits))]


class CounterStoreContract:
    async def test_hits_add_up_within_a_window(self, counters):
        assert await counted(counters, hit()) == [1]
        assert await counted(counters, hit(hits=4)) == [5]

    async def test_hits_over_the_limit_are_refused_and_counted(self, counters):
        outcomes = await settled(counters.add([hit(hits=2, requests=3), hit(hits=1, requests=3), hit(requests=3)]))
        assert [(outcome.allowed, outcome.remaining) for outcome in outcomes] == [(True, 1), (True, 0), (False, 0)]
        assert await counted(counters, hit(hits=0)) == [4]

    async def test_the_reset_is_the_rest_of_the_window(self, counters, advance):
        (first,) = await settled(counters.add([hit()]))
        assert 1 <= first.reset_seconds <= MINUTE
        await advance(first.reset_seconds)
        (second,) = await settled(counters.add([hit()]))
        assert (second.remaining, second.exact) == (LIMIT - 1, True)
        assert MINUTE - 1 <= second.reset_seconds <= MINUTE

    async def test_keys_are_counted_apart(self, counters):
        assert await counted(counters, hit("a"), hit("b", hits=3)) == [1, 3]
        assert await counted(counters, hit("b"), hit("a")) == [4, 2]

    async def test_limits_are_counted_apart(self, counters):
        assert await counted(counters, hit(), hit(limit_id="other")) == [1, 1]
        assert await counted(counters, hit(limit_id="other")) == [2]

    async def test_keys_that_are_the_same_when_joined_are_counted_apart(self, counters):
        keys = [("a", "b_c"), ("a_b", "c"), ("a", "b", "c", ""), ("a", "bc"), ("ab", "c"), ("abc",), ("a", "b", "c")]
        assert await counted(counters, *hits_for(*keys)) == [1] * len(keys)

    async def test_long_keys_are_counted_apart(self, counters):
        long = "x" * 10_000
        keys = [(long,), (long + "y",), ("k", long), ("k" + long,), (long, "k"), ("k", "", long), ("k", long, "")]
        assert await counted(counters, *hits_for(*keys)) == [1] * len(keys)
        assert await counted(counters, *hits_for(keys[0])) == [2]

    async def test_any_text_can_be_counted(self, counters):
        keys = [(text,) for text in ("\x00", "ключ", "💶", "a b\r\n", "")]
        assert await counted(counters, *hits_for(*keys)) == [1] * len(keys)

    async def test_one_key_twice_in_a_step_is_counted_one_after_the_other(self, counters):
        assert await counted(counters, hit(hits=2), hit(hits=3)) == [2, 5]

    async def test_no_hits_read_the_count(self, counters):
        assert await counted(counters, hit(hits=0)) == [0]
        await settled(counters.add([hit(hits=3)]))
        assert await counted(counters, hit(hits=0)) == [3]
        assert await counted(counters, hit()) == [4]

    async def test_a_new_window_starts_at_nothing(self, counters, advance):
        await settled(counters.add([hit(hits=9), hit(hits=9, seconds=365 * DAY)]))
        await advance(MINUTE)
        assert await counted(counters, hit(), hit(seconds=365 * DAY)) == [1, 10]

    async def test_counts_go_beyond_every_limit(self, counters):
        for _ in range(2):
            (outcome,) = await settled(counters.add([hit(hits=2**32 - 1, requests=2**32 - 1)]))
        assert (outcome.allowed, outcome.remaining) == (False, 0)
        (probe,) = await settled(counters.add([hit(hits=0, requests=2**32 - 1)]))
        assert not probe.allowed

    async def test_a_changed_limit_keeps_the_count(self, counters):
        await settled(counters.add([hit(hits=5)]))
        (outcome,) = await settled(counters.add([hit(requests=7)]))
        assert (outcome.allowed, outcome.remaining) == (True, 1)

    async def test_limits_that_are_retained_keep_their_counts(self, counters):
        await settled(counters.add([hit(hits=5), hit(limit_id="other")]))
        counters.retain({hit().limit_id})
        assert await counted(counters, hit()) == [6]

    async def test_nothing_to_count_is_an_empty_answer(self, counters):
        assert await settled(counters.add([])) == []
