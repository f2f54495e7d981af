"""An operator at a running control plane: sees counters, resets them, and finds that in the audit log."""

import asyncio
import json

import pytest

from app.cli import cli
from app.cli.failures import guarded
from tests.assets.documents import ONE_A_DAY
from tests.support.callers import plaintext_channel, rate_limit
from tests.support.serving import eventually_async
from tests.support.valkey import cluster_started, valkey_started

OK, OVER = 1, 2


async def codes(server, number):
    async with plaintext_channel(server) as channel:
        return [(await rate_limit(channel, "shop")).overall_code for _ in range(number)]


async def counts(server):
    return await codes(server, 1) == [OK]


@pytest.fixture(params=["memory", "valkey", "cluster"])
def server(request, serving):
    if request.param == "memory":
        yield serving.start()
    elif request.param == "valkey":
        with valkey_started() as valkey:
            yield serving.start(counters_url=valkey.url, counters_timeout_ms=10_000)
    else:
        with cluster_started() as nodes:
            url = f"valkey+cluster://127.0.0.1:{nodes[0].port}"
            yield serving.start(counters_url=url, counters_timeout_ms=10_000)


async def test_counters_are_listed_and_reset_and_the_audit_log_has_who_did(server):
    server.put_quota("shop", ONE_A_DAY)
    await eventually_async(lambda: counts(server), "the first count")
    assert await codes(server, 1) == [OVER]
    (counter,) = server.items("/v1/quota/counters?domain=shop")
    assert (counter["rule"], counter["used"] >= 2, counter["remaining"]) == ("shop.key", True, 0)
    assert counter["entries"] == [{"key": "key", "value": "value"}]

    answer = server.ask("POST", "/v1/quota/counters/reset", json={"domain": "shop", "id": counter["id"]})
    assert (answer.status_code, answer.json()) == (200, {"counters": 1})
    assert await codes(server, 2) == [OK, OVER]
    answer = server.ask("POST", "/v1/quota/counters/reset", json={"domain": "shop", "rule": "shop.key"})
    assert answer.json() == {"counters": 1}
    assert await codes(server, 1) == [OK]

    whole, one = server.items("/v1/audit?action=counter.reset")
    assert (whole["target"], whole["before"]) == ("shop.key", {"entries": "all"})
    assert (one["target"], one["before"]) == ("shop.key", {"entries": counter["entries"], "used": counter["used"]})
    assert {record["principal"] for record in (whole, one)} == {"admin_token"}
    assert one["address"] == "127.0.0.1"
    assert [event["counters"] for event in server.events("counters_reset")] == [1, 1]


@pytest.fixture
def run_command(monkeypatch, capsys):
    async def run(server, *arguments):
        with monkeypatch.context() as patch:
            patch.setenv("MESHWARD_ADMIN_URL", server.url)
            patch.setenv("MESHWARD_ADMIN_TOKEN", server.token)
            status = await asyncio.to_thread(guarded, lambda: cli(["quota", *arguments], prog_name="meshward"))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


async def test_the_commands_list_and_reset(serving, run_command):
    server = serving.start()
    server.put_quota("shop", ONE_A_DAY)
    assert await codes(server, 2) == [OK, OVER]
    status, out, _ = await run_command(server, "counters", "--domain", "shop")
    assert (status, out.splitlines()[0].split()) == (
        0,
        ["RULE", "COUNTED", "BY", "USED", "REMAINING", "RESETS", "IN", "SECONDS", "ID"],
    )
    assert out.splitlines()[1].split()[:4] == ["shop.key", "key=value", "2", "0"]
    (listed,) = json.loads((await run_command(server, "counters", "--domain", "shop", "-o", "json"))[1])
    for arguments in ((listed["id"],), ("--entry", "key=value"), ("--rule", "shop.key")):
        assert (await run_command(server, "reset", "--domain", "shop", *arguments))[:2] == (
            0,
            "1 counter of shop reset\n",
        )
        assert await codes(server, 2) == [OK, OVER]
    status, _, err = await run_command(server, "reset", "--domain", "shop", "-e", "key=value", "--rule", "shop.key")
    assert (status, "give a counter's ID, --rule, or --entry" in err) == (1, True)
    status, _, err = await run_command(server, "reset", "--domain", "shop", "-e", "key=other")
    assert (status, "nothing is counted" in err) == (1, True)
