"""Control planes that count in a Valkey which comes, goes and is shared."""

from tests.assets.documents import ONE_A_DAY
from tests.support.callers import plaintext_channel, rate_limit
from tests.support.serving import eventually_async
from tests.support.valkey import valkey_started

OK, OVER = 1, 2


async def code(server):
    async with plaintext_channel(server) as channel:
        return (await rate_limit(channel, "shop")).overall_code


async def test_a_control_plane_starts_and_answers_without_its_store_and_counts_when_it_is_there(serving):
    with valkey_started() as valkey:
        valkey.kill()
        url = f"valkey://quota:hunter2@127.0.0.1:{valkey.port}"
        server = serving.start(counters_url=url, counters_timeout_ms=10_000)
        server.put_quota("shop", ONE_A_DAY)
        assert await code(server) == OVER
        valkey.configure("user quota on >hunter2 ~meshward:* +@all")
        valkey.start()
        await eventually_async(lambda: is_(server, OK), "the first count")
        assert await code(server) == OVER
    assert "hunter2" not in server.log_text


async def is_(server, wanted):
    return await code(server) == wanted


async def test_replicas_share_their_counts(serving):
    with valkey_started() as valkey:
        replicas = [serving.start(name, counters_url=valkey.url, counters_timeout_ms=10_000) for name in ("one", "two")]
        for replica in replicas:
            replica.put_quota("shop", ONE_A_DAY)
            await eventually_async(lambda replica=replica: counts(replica), "a connection to the store")
        assert [await code(replica) for replica in replicas] == [OK, OVER]


async def counts(server):
    return any(name.startswith("meshward_quota_store_available") and value for name, value in server.metrics().items())
