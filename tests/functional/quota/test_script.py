"""The script that counts in Valkey against the functions that count in memory."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.quota.backends.valkey.wire import SCRIPT, arguments_of, outcomes_of, parts_of, prepare_named
from app.quota.model import FixedWindow, Hit
from app.quota.rules.counting import count
from app.quota.rules.joint import AllOrNone
from tests.support.algorithms import START, sequences, state_after

_numbers = itertools.count()
# Lets no state expire by the server's own clock, which goes on while that of the test goes back.
MUCH = 10**9


def evaluate(client, hits, now, joint=None):
    """The outcomes of `hits`, each with the name of its counter, in one call of the script."""
    prepared = [prepare_named(key, hit) for key, hit in hits]
    keys, limits, counted = arguments_of(prepared, now // 1000)
    parts = parts_of({0: joint}, len(hits)) if joint else b""
    return outcomes_of(client.eval(SCRIPT, len(keys), *keys, now, MUCH, limits, counted, parts), len(hits))


@pytest.fixture(scope="module")
def client(valkey_server):
    with valkey_server.client() as client:
        yield client


@settings(max_examples=400)
@given(sequences())
def test_the_script_counts_as_the_functions_do(client, sequence):
    algorithm, steps = sequence
    key, state, now = b"d%d" % next(_numbers), None, START
    for moved, hits in steps:
        now += moved
        hit = Hit("l", ("k",), algorithm, hits)
        step = count(algorithm, state, now, hits)
        assert evaluate(client, [(key, hit)], now) == [step.outcome()]
        state = state_after(algorithm, state, step, hits)


@settings(max_examples=200)
@given(st.lists(sequences(), min_size=1, max_size=3), st.data())
def test_hits_of_one_call_are_counted_one_after_another(client, counters, data):
    keys = [b"b%d" % next(_numbers) for _ in counters]
    states: list[tuple[int, ...] | None] = [None] * len(counters)
    for now in (START, START + 700):
        places = data.draw(st.lists(st.integers(0, len(counters) - 1), min_size=1, max_size=12))
        hits, expected = [], []
        for place in places:
            algorithm, steps = counters[place]
            hit = Hit("l", ("k",), algorithm, data.draw(st.sampled_from([number for _, number in steps] or [1])))
            step = count(algorithm, states[place], now, hit.hits)
            hits.append((keys[place], hit))
            expected.append(step.outcome())
            states[place] = state_after(algorithm, states[place], step, hit.hits)
        assert evaluate(client, hits, now) == expected


@settings(max_examples=200)
@given(st.lists(sequences(), min_size=1, max_size=3), st.booleans(), st.data())
def test_hits_that_go_together_are_counted_as_the_functions_do_or_not_at_all(client, counters, counts, data):
    keys = [b"j%d" % next(_numbers) for _ in counters]
    states: list[tuple[int, ...] | None] = [None] * len(counters)
    for now in (START, START + 700):
        places = data.draw(st.lists(st.integers(0, len(counters) - 1), min_size=1, max_size=4))
        refusing = [data.draw(st.booleans()) for _ in places]
        hits, after, steps = [], list(states), []
        for place in places:
            algorithm, numbers = counters[place]
            hit = Hit("l", ("k",), algorithm, data.draw(st.sampled_from([number for _, number in numbers] or [1])))
            step = count(algorithm, after[place], now, hit.hits)
            hits.append((keys[place], hit))
            steps.append(step)
            after[place] = state_after(algorithm, after[place], step, hit.hits)
        refused = any(refuses and not step.allowed for refuses, step in zip(refusing, steps, strict=True))
        expected = [step.outcome() for step in steps]
        if refused or not counts:
            probes = [count(counters[place][0], states[place], now, 0).outcome() for place in places]
            expected = [probe if step.allowed else step.outcome() for probe, step in zip(probes, steps, strict=True)]
        else:
            states = after
        assert evaluate(client, hits, now, AllOrNone(refusing, counts)) == expected


def test_a_call_may_have_many_counters(client):
    hits = [(b"m%d" % number, Hit("l", ("k",), FixedWindow(5, 60), 1)) for number in range(9000)]
    assert {outcome.remaining for outcome in evaluate(client, hits, START)} == {4}
    assert {outcome.remaining for outcome in evaluate(client, hits, START)} == {3}


def test_what_is_no_counter_is_neither_counted_in_nor_overwritten(client):
    window = FixedWindow(5, 60)
    client.delete("x:list", "x:text", "x:short")
    client.rpush("x:list", 1)
    client.set("x:text", b"\xff" * 16)
    client.set("x:short", b"abc")
    for number in (0, 1):
        hits = [(key, Hit("l", ("k",), window, number)) for key in (b"x:list", b"x:text", b"x:short")]
        good = b"x:%d" % next(_numbers), Hit("l", ("k",), window, 1)
        *others, last = evaluate(client, [*hits, good], START)
        assert (others, last.remaining) == ([None] * 3, 4)
    assert (client.lrange("x:list", 0, -1), client.get("x:text"), client.get("x:short")) == (
        [b"1"],
        b"\xff" * 16,
        b"abc",
    )


@pytest.mark.parametrize("counts", [True, False])
def test_a_counter_that_cannot_be_read_is_no_counter_without_hits(client, counts):
    name = b"u%d" % next(_numbers)
    client.hset(name, "a", "b")
    hit = Hit("l", ("k",), FixedWindow(5, 60, False), 1)
    assert evaluate(client, [(name, hit)], START, AllOrNone([True], counts)) == [None]


@pytest.mark.parametrize("passes", [True, False])
def test_a_counter_that_cannot_be_read_keeps_others_from_counting_unless_its_limit_lets_pass(client, passes):
    bad, good = b"b%d" % next(_numbers), b"g%d" % next(_numbers)
    client.set(bad, "something else")
    hit = Hit("l", ("k",), FixedWindow(1, 60, False), 1)
    joint = AllOrNone([True, True], passing=[passes, False])
    first, second = (evaluate(client, [(bad, hit), (good, hit)], START, joint) for _ in range(2))
    assert first[0] is None
    assert [first[1].allowed, second[1].allowed] == [True, not passes]
