"""A store that is killed, paused, cut off or replaced under load: how many requests are admitted beyond the limit."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from app.quota.backends.valkey.link import CONNECTIONS
from app.quota.model import Away, FixedWindow, Hit
from app.telemetry.metrics import Metrics
from tests.fakes.quota import settled
from tests.support.counting import available, counting
from tests.support.proxy import proxied
from tests.support.serving import eventually_async
from tests.support.valkey import sentinels_started, valkey_started

LIMIT = 1000
CALLERS = 20
# Hits that are answered before the outage and in it; after it they go on until the limit is used up.
BEFORE, WITHIN = 40, 120
TIMEOUT = 0.015


class Load:
    """Callers that count one hit after another under one limit."""

    def __init__(self, counters, away):
        self._counters = counters
        self._hit = Hit("limit", ("k",), FixedWindow(LIMIT, 86_400), 1, away)
        self.answered = self.admitted = 0

    async def call(self):
        while True:
            (outcome,) = await settled(self._counters.add([self._hit]))
            self.answered += 1
            self.admitted += outcome.allowed
            await asyncio.sleep(0.001)

    async def answers(self, number):
        """Wait for so many more answers."""
        until = self.answered + number

        async def reached():
            return self.answered >= until

        await eventually_async(reached, "answers")


@asynccontextmanager
async def loaded(counters, away):
    load = Load(counters, away)
    callers = [asyncio.create_task(load.call()) for _ in range(CALLERS)]
    try:
        yield load
        assert not [caller for caller in callers if caller.done()]  # none of them has failed
    finally:
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)


async def is_away(metrics):
    return not await available(metrics)


async def is_used_up(metrics):
    return metrics.counters_over.value() > 0


def bypassed(metrics, away, decided):
    return metrics.counters_bypassed.value(away.value, decided)


@pytest.mark.parametrize("away", list(Away))
@pytest.mark.parametrize("how", ["killed", "paused", "cut off"])
async def test_no_more_is_admitted_than_the_policy_says(how, away):
    metrics = Metrics()
    with valkey_started() as server:
        async with (
            proxied(server.port) as proxy,
            counting(f"valkey://127.0.0.1:{proxy.port}", metrics=metrics, seconds=TIMEOUT, real_time=True) as counters,
            loaded(counters, away) as load,
        ):
            await load.answers(BEFORE)
            if how == "killed":
                server.kill()
            elif how == "paused":
                server.pause()
            else:
                proxy.forwarding.clear()
            await eventually_async(lambda: is_away(metrics), "the store to count as away")
            accepted = proxy.accepted
            await load.answers(WITHIN)
            # The callers have not brought more attempts with them than the one that probes and those under way.
            if how != "killed":
                assert proxy.accepted - accepted <= 1 + CONNECTIONS
            if how == "killed":
                server.start()
            server.resume()
            proxy.forwarding.set()
            await eventually_async(lambda: available(metrics), "the store")
            await eventually_async(lambda: is_used_up(metrics), "the limit to be used up")
            await load.answers(WITHIN)
    # A store that was killed has lost its counts, and grants the limit again.
    granted = LIMIT * (2 if how == "killed" else 1)
    if away is Away.ALLOW:
        granted += bypassed(metrics, away, "allowed")
    assert sum(bypassed(metrics, away, decided) for decided in ("allowed", "denied")) >= WITHIN
    assert LIMIT // 2 < load.admitted <= granted


@pytest.mark.parametrize("away", list(Away))
async def test_a_failover_under_load_loses_no_more_than_what_was_not_replicated(away):
    metrics = Metrics()
    with sentinels_started() as (primary, _, sentinels):
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in sentinels)
        with primary.client() as client:
            client.set("first", "1")
            assert client.execute_command("WAIT", 1, 30_000) == 1  # the replica has what there is
        async with (
            counting(f"valkey+sentinel://{hosts}/main", metrics=metrics, seconds=TIMEOUT, real_time=True) as counters,
            loaded(counters, away) as load,
        ):
            await load.answers(BEFORE)
            primary.kill()
            counted = load.admitted
            await eventually_async(lambda: is_away(metrics), "the primary to count as away")
            await load.answers(WITHIN)
            await eventually_async(lambda: available(metrics), "the new primary")
            await eventually_async(lambda: is_used_up(metrics), "the limit to be used up")
            await load.answers(WITHIN)
    # Replication is asynchronous: of what was counted before, some may be lost, and a lease that was just taken.
    granted = LIMIT + counted + (LIMIT // 10 if away is Away.LEASE else 0)
    if away is Away.ALLOW:
        granted += bypassed(metrics, away, "allowed")
    assert sum(bypassed(metrics, away, decided) for decided in ("allowed", "denied")) >= WITHIN
    assert LIMIT // 2 < load.admitted <= granted
