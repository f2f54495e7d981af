"""Readiness: every check by name, with its reason, and never more work than one round in half a second."""

import asyncio
import json

from app.core.errors import UnavailableError
from app.transport.rest.health import Health


async def fine():
    pass


async def away():
    raise UnavailableError("the database is away")


async def broken():
    raise RuntimeError("a secret detail")


async def stuck():
    await asyncio.Event().wait()


async def answer(health):
    response = await health.readyz()
    return response.status_code, json.loads(response.body)


async def test_alive_is_alive_whatever_the_checks_say(clock):
    assert (await Health({"database": away}, clock).healthz()).status_code == 200


async def test_ready_is_when_every_check_passes(clock):
    status, body = await answer(Health({"database": fine, "ca": fine}, clock))
    assert status == 200
    assert body == {"status": "ready", "checks": {"database": {"ready": True}, "ca": {"ready": True}}}


async def test_the_health_check_of_envoyproxy_ratelimit_is_ok_or_an_error(clock):
    ready, failing = [await Health({"database": check}, clock).healthcheck() for check in (fine, away)]
    assert (ready.status_code, ready.body) == (200, b"OK")
    assert (failing.status_code, b"database" in failing.body) == (500, False)


async def test_a_failing_check_is_named_with_its_reason_beside_the_others(clock):
    status, body = await answer(Health({"database": away, "ca": fine}, clock))
    assert status == 503
    assert body["checks"] == {"database": {"ready": False, "reason": "the database is away"}, "ca": {"ready": True}}


async def test_a_check_that_breaks_is_not_ready_and_tells_no_detail(clock):
    status, body = await answer(Health({"database": broken}, clock))
    assert status == 503
    assert "secret" not in str(body)


async def test_a_check_that_is_stuck_is_not_waited_for(clock, monkeypatch):
    monkeypatch.setattr("app.transport.rest.health.CHECK_TIMEOUT_SECONDS", 0.001)
    status, body = await answer(Health({"database": stuck}, clock))
    assert status == 503
    assert "did not answer" in body["checks"]["database"]["reason"]


async def test_a_process_that_ends_is_not_ready(clock):
    health = Health({"database": fine}, clock)
    health.drain()
    status, body = await answer(health)
    assert status == 503
    assert body["checks"]["process"]["reason"] == "is shutting down"


async def test_many_probes_make_one_round_of_checks(clock):
    rounds = []

    async def count():
        rounds.append(None)

    health = Health({"database": count}, clock)
    await asyncio.gather(*(health.readyz() for _ in range(50)))
    assert len(rounds) == 1
    clock.advance(0.5)
    await health.readyz()
    assert len(rounds) == 2
