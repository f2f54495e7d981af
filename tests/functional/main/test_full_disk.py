"""A control plane whose data directory is on a full disk."""

import httpx
import pytest

from tests.assets.documents import DENY_NEWS
from tests.support.callers import CART, certify, check, join, plaintext_channel, tls_channel
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


async def test_a_start_on_a_full_disk_decides_and_says_why_it_is_not_ready(serving, disk):
    before = serving.start()
    before.post_policies(DENY_NEWS)
    eventually(lambda: kept(disk.directory), "the policy to be kept")
    cart = await join(before)
    before.stop()
    disk.fill()
    server = serving.launch().wait_until_listening()
    eventually(lambda: not readiness(server)["mesh"].get("reason"), "the TLS port")
    async with tls_channel(server, cart) as channel:
        assert not await check(channel, "/news")
        assert await check(channel, "/olds")
    assert "full" in readiness(server)["database"]["reason"]
    disk.free()
    server.wait_until_ready()
    async with tls_channel(server, cart) as channel:
        assert (await certify(channel)).spiffe_id == CART


def kept(directory):
    policies = directory / "last-good" / "policy"
    return policies.exists() and b"no-news" in policies.read_bytes()
