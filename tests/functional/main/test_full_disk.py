"""A control plane whose data directory is on a full disk."""

import httpx
import pytest

from tests.assets.documents import DENY_NEWS
from tests.support.callers import check, plaintext_channel
from tests.support.filesystem import mounted
from tests.support.serving import eventually


@pytest.fixture
def disk(tmp_path):
    yield from mounted(tmp_path / "data")


def readiness(server):
    return httpx.get(f"{server.url}/readyz").json()["checks"]


def named_full(server):
    return "is full" in readiness(server)["database"].get("reason", "")


async def test_a_disk_that_fills_up_is_named_by_readiness_while_checks_go_on(serving, disk):
    server = serving.start()
    server.post_policies(DENY_NEWS)
    disk.fill()
    eventually(lambda: named_full(server), "readiness to name the full disk")
    async with plaintext_channel(server) as channel:
        assert not await check(channel, "/news")
        assert await check(channel, "/olds")
    refused = server.ask("POST", "/v1/join-tokens", json={"spiffe_id": "spiffe://cluster.local/ns/a/sa/b"})
    assert refused.status_code == 503
    assert "is full" in refused.json()["detail"]
    disk.free()
    server.wait_until_ready()
    assert server.join_token("spiffe://cluster.local/ns/a/sa/b")
