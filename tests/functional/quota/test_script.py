"""The script that counts in Valkey against the functions that count in memory."""

import itertools

import pytest
from hypothesis import given, settings

from app.quota.backends.valkey.wire import SCRIPT, arguments_of, outcomes_of
from app.quota.model import Hit
from app.quota.rules.counting import count
from tests.support.algorithms import START, sequences

_numbers = itertools.count()
# Lets no state expire by the server's own clock, which goes on while that of the test goes back.
MUCH = 10**9


def evaluate(client, key, hit, now):
    reply = client.eval(SCRIPT, 1, key, now, MUCH, arguments_of(hit, now // 1000))
    return outcomes_of(reply, 1)[0]


@pytest.fixture(scope="module")
def client(valkey_server):
    with valkey_server.client() as client:
        yield client


@settings(max_examples=400)
@given(sequences())
def test_the_script_counts_as_the_functions_do(client, sequence):
    algorithm, steps = sequence
    key, state, now = f"d{next(_numbers)}", None, START
    for moved, hits in steps:
        now += moved
        hit = Hit("l", ("k",), algorithm, hits)
        step = count(algorithm, state, now, hits)
        assert evaluate(client, key, hit, now) == step.outcome()
        if hits and (step.allowed or getattr(algorithm, "counts_refused", False)):
            state = step.state
