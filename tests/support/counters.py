"""What every CounterStore must do.

A backend's test class derives from the contract and has two fixtures: `counters`, and `advance(seconds)`, which moves
the time of the store.
"""

import pytest

from app.core.errors import InvalidInputError
from app.quota.model import Concurrency, FixedWindow, Hit, SlidingLog, SlidingWindow, TokenBucket, Total
from app.quota.rules.joint import AllOrNone
from tests.fakes.quota import settled

DAY = 86_400
MINUTE = 60
LIMIT = 100
WIDE = FixedWindow(LIMIT, MINUTE)


def hit(name="k", hits=1, seconds=MINUTE, limit_id="domain", requests=LIMIT):
    return Hit(f"{limit_id} {seconds}", (name,), FixedWindow(requests, seconds), hits)


def hits_for(*keys):
    return [hit()._replace(key=key) for key in keys]


async def counted(counters, *hits):
    """What each of `hits` left of a limit that is far away."""
    return [LIMIT - outcome.remaining for outcome in await settled(counters.add(hits))]


def limits_of(*hits):
    return {each.limit_id: each.algorithm for each in hits}


async def listed(counters, limits, count=1000):
    """Every counter of the limits by its key, page after page."""
    found, cursor = {}, None
    while True:
        page = await counters.page(limits, cursor, count)
        found |= {each.name: each for each in page.counters}
        cursor = page.following
        if cursor is None:
            return {key: (each.used, each.resets_in) for (_, key), each in found.items()}


KINDS = [
    FixedWindow(LIMIT, DAY),
    SlidingWindow(LIMIT, DAY),
    SlidingLog(LIMIT, DAY),
    TokenBucket(1, DAY, LIMIT),
    Concurrency(LIMIT, DAY),
    Total(LIMIT),
]


class CounterStoreContract:
    async def test_hits_add_up_within_a_window(self, counters):
        assert await counted(counters, hit()) == [1]
        assert await counted(counters, hit(hits=4)) == [5]

    async def test_hits_over_the_limit_are_refused_and_counted(self, counters):
        outcomes = await settled(counters.add([hit(hits=2, requests=3), hit(hits=1, requests=3), hit(requests=3)]))
        assert [(outcome.allowed, outcome.remaining) for outcome in outcomes] == [(True, 1), (True, 0), (False, 0)]
        assert await counted(counters, hit(hits=0)) == [4]

    async def test_hits_that_go_together_are_counted_all_or_none(self, counters):
        async def ask(*hits, refusing=(True, True), counts=True):
            prepared = counters.prepare(hits)
            outcomes = await settled(counters.count(prepared, AllOrNone(refusing, counts)))
            return [(outcome.allowed, outcome.remaining) for outcome in outcomes]

        few, many = hit("few", requests=2), hit("many", requests=9)
        assert await ask(few, many, counts=False) == [(True, 2), (True, 9)]
        assert await ask(few, many) == [(True, 1), (True, 8)]
        assert await ask(few._replace(hits=2), many) == [(False, 0), (True, 8)]
        assert await ask(many, few) == [(True, 7), (True, 0)]
        assert await ask(many, few) == [(True, 7), (False, 0)]
        assert await ask(few._replace(hits=0), many._replace(hits=0)) == [(True, 0), (True, 7)]
        # What refuses nothing is counted as it is without the others.
        assert await ask(few, many, refusing=(False, True)) == [(False, 0), (True, 6)]
        assert await counted(counters, *(each._replace(hits=0, algorithm=WIDE) for each in (few, many))) == [3, 3]

    async def test_hits_for_one_counter_that_go_together_fit_as_a_whole(self, counters):
        async def ask(number):
            prepared = counters.prepare([hit(requests=3)] * number)
            return [each.allowed for each in await settled(counters.count(prepared, AllOrNone([True] * number)))]

        assert await ask(4) == [True, True, True, False]
        assert await ask(2) == [True, True]
        assert await ask(2) == [True, False]
        assert await counted(counters, hit(hits=0)) == [2]

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
        await counters.retain({hit().limit_id})
        assert await counted(counters, hit()) == [6]

    async def test_nothing_to_count_is_an_empty_answer(self, counters):
        assert await settled(counters.add([])) == []

    @pytest.mark.parametrize("algorithm", KINDS, ids=lambda algorithm: type(algorithm).__name__)
    async def test_counters_are_listed_with_what_is_used(self, counters, algorithm):
        hits = [Hit("limit", (name,), algorithm, number) for name, number in (("a", 1), ("b", 7), ("c", 0))]
        await settled(counters.add(hits))
        found = await listed(counters, limits_of(*hits))
        assert {key: used for key, (used, _) in found.items()} == {("a",): 1, ("b",): 7}
        resets = {resets_in for _, resets_in in found.values()}
        assert resets == {None} if isinstance(algorithm, Total) else all(0 < each <= 7 * DAY for each in resets)

    async def test_what_is_over_the_limit_is_listed_with_all_that_was_counted(self, counters):
        await settled(counters.add([hit(hits=LIMIT), hit(hits=LIMIT), hit(hits=5)]))
        assert [used for used, _ in (await listed(counters, limits_of(hit()))).values()] == [2 * LIMIT + 5]

    async def test_counters_of_other_limits_are_not_listed(self, counters):
        await settled(counters.add([hit("a"), hit("b", limit_id="other"), hit("c", limit_id="third")]))
        assert (await listed(counters, limits_of(hit()))).keys() == {("a",)}
        both = limits_of(hit(), hit(limit_id="other"))
        assert (await listed(counters, both)).keys() == {("a",), ("b",)}
        assert await listed(counters, {}) == {}

    async def test_pages_have_every_counter(self, counters):
        hits = [hit(f"{number}", hits=number, limit_id=limit) for number in range(1, 60) for limit in ("x", "y")]
        await settled(counters.add(hits))
        for count in (1, 7, 1000):
            found, cursor = [], None
            while True:
                page = await counters.page(limits_of(*hits), cursor, count)
                found += page.counters
                cursor = page.following
                if cursor is None:
                    break
            assert {(each.name, each.used) for each in found} == {
                ((each.limit_id, each.key), each.hits) for each in hits
            }

    async def test_a_window_that_ended_is_not_listed(self, counters, advance):
        await settled(counters.add([hit("a"), hit("b", seconds=DAY)]))
        await advance(MINUTE)
        assert (await listed(counters, limits_of(hit(), hit(seconds=DAY)))).keys() == {("b",)}

    async def test_keys_are_listed_as_they_are_and_large_ones_by_a_name(self, counters):
        keys = [(text,) for text in ("a b\r\n", "}{:,=%", "ключ", "💶", "")] + [("a", "b"), ("a,b",), ()]
        long = [("x" * 10_000,), ("x" * 10_001,)]
        await settled(counters.add(hits_for(*keys, *long)))
        found = await listed(counters, limits_of(hit()))
        assert {key for key in found if isinstance(key, tuple)} == set(keys)
        named = [key for key in found if isinstance(key, bytes)]
        assert len(named) == 2
        limit_id = hit().limit_id
        (read,) = await counters.read([(limit_id, named[0])], limits_of(hit()))
        assert read.used == 1
        await counters.reset([(limit_id, name) for name in named])
        assert await counted(counters, *[each._replace(hits=0) for each in hits_for(*long)]) == [0, 0]

    async def test_counts_are_never_negative(self, counters):
        slots = Hit("slots", ("a",), Concurrency(3, DAY), 1)
        await settled(counters.add([slots._replace(hits=-5), slots, slots._replace(hits=-(2**32 - 1))]))
        assert await listed(counters, limits_of(slots)) == {}
        outcomes = await settled(counters.add([slots._replace(hits=number) for number in (0, 3, 1, -1, 1, 1)]))
        assert [(each.allowed, each.remaining) for each in outcomes] == [
            (True, 3),
            (True, 0),
            (False, 0),
            (True, 1),
            (True, 0),
            (False, 0),
        ]
        assert [used for used, _ in (await listed(counters, limits_of(slots))).values()] == [3]

    async def test_counters_are_read_by_their_names(self, counters):
        await settled(counters.add([hit("a", hits=3)]))
        names = [(hit().limit_id, (key,)) for key in ("a", "b", "x" * 10_000)]
        read = await counters.read(names, limits_of(hit()))
        assert [each and (each.name, each.used) for each in read] == [(names[0], 3), None, None]

    @pytest.mark.parametrize("algorithm", KINDS, ids=lambda algorithm: type(algorithm).__name__)
    async def test_a_counter_that_is_reset_starts_again_and_others_do_not(self, counters, algorithm):
        first, second, long = (Hit("limit", (key,), algorithm, LIMIT) for key in ("a", "b", "x" * 10_000))
        outcomes = await settled(counters.add([first, second, long, first, second, long]))
        assert [outcome.allowed for outcome in outcomes] == [True] * 3 + [False] * 3
        await counters.reset([("limit", ("a",)), ("limit", long.key), ("limit", ("unknown",))])
        outcomes = await settled(counters.add([each._replace(hits=1) for each in (first, second, long)]))
        assert [outcome.allowed for outcome in outcomes] == [True, False, True]

    @pytest.mark.parametrize("algorithm", KINDS, ids=lambda algorithm: type(algorithm).__name__)
    async def test_a_limit_that_is_reset_has_no_counters(self, counters, algorithm):
        hits = [Hit(limit, (f"{number}",), algorithm, LIMIT) for number in range(30) for limit in ("l", "other")]
        await settled(counters.add(hits))
        assert await counters.reset_limits({"l"}) == 30
        assert await listed(counters, limits_of(hits[0])) == {}
        assert len(await listed(counters, limits_of(hits[1]))) == 30
        assert await counters.reset_limits({"l"}) == 0
        assert all(outcome.allowed for outcome in await settled(counters.add(hits[::2])))

    async def test_a_cursor_of_another_is_refused(self, counters):
        await settled(counters.add([hit("a")]))
        for cursor in ("", "x", "[1, 2]", '["limit"]', "[[[", '["a", [1]]', '["a", "zz"]', "-1 x"):
            with pytest.raises(InvalidInputError):
                await counters.page(limits_of(hit()), cursor, 10)
