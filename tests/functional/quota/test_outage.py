"""What is answered while Valkey is away, and that counting goes on afterwards."""

import asyncio

import pytest
from structlog.testing import capture_logs

from app.quota.backends.valkey.link import CONNECTIONS
from app.quota.model import Away, FixedWindow, Hit
from tests.fakes.quota import settled
from tests.support.counting import available, counting
from tests.support.proxy import proxied
from tests.support.serving import eventually_async
from tests.support.valkey import valkey_started

LIMIT = 100
TIMEOUT = 0.015


def hit(name="k", away=Away.DENY, hits=1, requests=LIMIT):
    return Hit("limit", (name,), FixedWindow(requests, 86_400), hits, away)


async def one(counters, *hits):
    return (await settled(counters.add(hits)))[0]


@pytest.fixture
async def server():
    with valkey_started() as server:
        yield server


async def is_away(metrics):
    return not await available(metrics)


@pytest.mark.parametrize(("away", "allowed"), [(Away.DENY, False), (Away.ALLOW, True)])
async def test_before_the_store_is_there_the_policy_of_the_limit_answers(away, allowed, metrics):
    async with counting("valkey://127.0.0.1:1", metrics=metrics, wait=False) as counters:
        outcomes = counters.add([hit(away=away)])
        assert isinstance(outcomes, list)  # at once
        assert outcomes[0].allowed is allowed
        assert metrics.counters_bypassed.value(away.value, "allowed" if allowed else "denied") == 1


async def test_a_store_that_is_killed_is_answered_for_and_counts_again_when_it_is_back(server, metrics):
    with capture_logs() as lines:
        async with counting(server.url, metrics=metrics, seconds=TIMEOUT, real_time=True) as counters:
            await eventually_async(lambda: counts(counters), "a count")
            server.kill()
            await eventually_async(lambda: is_away(metrics), "the end of the store")
            assert not (await one(counters, hit())).allowed
            assert (await one(counters, hit(away=Away.ALLOW))).allowed
            server.start()
            await eventually_async(lambda: available(metrics), "the store")
            await eventually_async(lambda: counts(counters), "a count")
    events = [line["event"] for line in lines]
    assert events.count("counters_away") <= 2  # the connection ended, and perhaps something else was said of it
    assert events.count("counters_available") == 2


async def counts(counters):
    outcome = await one(counters, hit("other"))
    return outcome.allowed and outcome.remaining < LIMIT


@pytest.mark.parametrize("how", ["paused", "cut off"])
async def test_a_store_that_hangs_is_answered_for(how, server, metrics):
    async with (
        proxied(server.port) as proxy,
        counting(f"valkey://127.0.0.1:{proxy.port}", metrics=metrics, seconds=TIMEOUT, real_time=True) as counters,
    ):
        await eventually_async(lambda: counts(counters), "a count")
        if how == "paused":
            server.pause()
        else:
            proxy.forwarding.clear()
        asked = []
        for _ in range(20):  # more than the connections take at once, so that some wait
            asked.append(asyncio.create_task(one(counters, hit())))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert not any(outcome.allowed for outcome in await asyncio.gather(*asked))
        for _ in range(3):
            await one(counters, hit())
        await eventually_async(lambda: is_away(metrics), "the store to count as away")
        assert isinstance(counters.add([hit()]), list)  # nobody waits any more
        accepted = proxy.accepted
        await asyncio.sleep(0.2)
        # One attempt at a time, beside those that late answers had begun before.
        assert proxy.accepted - accepted <= 1 + CONNECTIONS
        server.resume()
        proxy.forwarding.set()
        await eventually_async(lambda: available(metrics), "the store")
        await eventually_async(lambda: counts(counters), "a count")


GARBAGE = [
    b"+OK\r\n",
    b"$-1\r\n",
    b":7\r\n",
    b"*1\r\n$1\r\nx\r\n",
    b"$24\r\n" + b"\xff" * 24 + b"\r\n",
    b"hello\r\n",
    b"$x\r\n",
]


@pytest.mark.parametrize("answer", GARBAGE)
async def test_a_store_that_answers_wrongly_counts_as_away(answer, server, metrics):
    async with (
        proxied(server.port) as proxy,
        counting(f"valkey://127.0.0.1:{proxy.port}", metrics=metrics) as counters,
    ):
        proxy.answer = answer
        assert not (await one(counters, hit())).allowed
        assert await is_away(metrics)
        proxy.answer = None
        await eventually_async(lambda: available(metrics), "the store")
        assert (await one(counters, hit())).allowed


async def test_a_store_without_memory_counts_as_away_until_it_has_some(server, metrics):
    with capture_logs() as lines:
        async with counting(server.url, metrics=metrics) as counters:
            with server.client() as client:
                client.config_set("maxmemory", 1)
                assert not (await one(counters, hit())).allowed
                await eventually_async(lambda: is_away(metrics), "the store to count as away")
                client.config_set("maxmemory", 0)
            await eventually_async(lambda: available(metrics), "the store")
            assert (await one(counters, hit())).allowed
    assert [line["reason"] for line in lines if line["event"] == "counters_away"] == ["out_of_memory"]


async def test_a_replica_counts_as_away(server, metrics):
    with valkey_started(f"replicaof 127.0.0.1 {server.port}") as replica, capture_logs() as lines:
        async with counting(replica.url, metrics=metrics, wait=False) as counters:
            await eventually_async(lambda: logged(lines, "read_only"), "a refusal to write")
            assert not (await one(counters, hit())).allowed
            with replica.client() as client:
                client.execute_command("REPLICAOF NO ONE")
            await eventually_async(lambda: available(metrics), "the store")
            assert (await one(counters, hit())).allowed


async def logged(lines, reason):
    return any(line.get("reason") == reason for line in lines)


async def test_a_flushed_store_counts_from_nothing_and_gets_the_script_again(server, metrics):
    async with counting(server.url, metrics=metrics) as counters:
        assert (await one(counters, hit(hits=5))).remaining == LIMIT - 5
        with server.client() as client:
            client.flushall()
            client.script_flush()
        assert (await one(counters, hit(hits=2))).remaining == LIMIT - 2


async def test_a_key_with_something_else_in_it_is_answered_by_policy_and_the_others_are_counted(server, metrics):
    async with counting(server.url, metrics=metrics) as counters:
        await settled(counters.add([hit("list"), hit("text"), hit("negative")]))
        with server.client() as client:
            keys = [key for key in client.scan_iter() if b"probe" not in key]
            client.set(keys[0], b"text")
            client.set(keys[1], b"\xd1\xff\xff\xd1\xff\xff")
            client.delete(keys[2])
            client.lpush(keys[2], 1)
        outcomes = await settled(counters.add([hit("list"), hit("text"), hit("negative"), hit("good")]))
        assert [outcome.allowed for outcome in outcomes] == [False, False, False, True]
        assert await available(metrics)
        assert metrics.counters_bypassed.value("deny", "denied") == 3
