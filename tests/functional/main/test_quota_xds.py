"""A control plane whose quota configurations come from a management server."""

import asyncio

from tests.fakes.management_server import config, management_server
from tests.support.callers import plaintext_channel, rate_limit
from tests.support.serving import eventually, eventually_async

OK, OVER = 1, 2
ONE_A_DAY = {"key": "key", "rate_limit": {"unit": "YEAR", "requests_per_unit": 1}}


async def code(server):
    async with plaintext_channel(server) as channel:
        return (await rate_limit(channel, "shop")).overall_code


async def test_configurations_are_those_of_the_management_server_while_it_is_there_and_after(serving):
    async with management_server() as management:
        process = serving.launch(quota_xds_server=f"127.0.0.1:{management.port}", quota_xds_tls="false")
        await eventually_async(lambda: connected(management), "the control plane to ask")
        management.set(config("shop", ONE_A_DAY))
        server = await asyncio.to_thread(process.wait_until_ready)
        assert [await code(server), await code(server)] == [OK, OVER]
        assert [item["domain"] for item in server.items("/v1/quota/configs")] == ["shop"]
        answer = server.ask("PUT", "/v1/quota/configs/shop", content="domain: shop")
        assert (answer.status_code, "change them there" in answer.json()["detail"]) == (409, True)
        management.set(config("shop", ONE_A_DAY), config("", ONE_A_DAY))
        await management.answered(2)
        eventually(lambda: server.events("xds_refused"), "the refusal in the log")
        assert server.metrics()['meshward_xds_connected{kind="quota"}'] == 1
    eventually(lambda: server.events("xds_disconnected"), "the end of the stream in the log")
    assert await code(server) == OVER
    assert server.metrics()['meshward_xds_connected{kind="quota"}'] == 0

    assert server.stop() == 0
    settings = {"quota_xds_server": f"127.0.0.1:{management.port}", "quota_xds_tls": "false"}
    again = await asyncio.to_thread(lambda: serving.start(**settings))
    assert [event["documents"] for event in again.events("xds_kept_used")] == [1]
    assert [await code(again), await code(again)] == [OK, OVER]


async def connected(management):
    return bool(management.requests)
