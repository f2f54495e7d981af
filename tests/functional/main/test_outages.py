"""A control plane whose PostgreSQL stops or freezes."""

import asyncio
import stat

import grpc
import httpx
import pytest

from tests.assets.documents import DENY_NEWS, ONE_A_DAY
from tests.support.callers import CART, certify, check, code_of, join, plaintext_channel, rate_limit, tls_channel
from tests.support.serving import eventually

# Twice what the operations guide promises, as the machine that runs the tests may be busy; tests/functional/db has the
# promise itself.
ANSWER_SECONDS = 10
BANNED = "spiffe://cluster.local/ns/web/sa/bad"


def reason(server, name):
    """Why a check of readiness fails, "" if it does not."""
    return httpx.get(f"{server.url}/readyz").json()["checks"][name].get("reason", "")


@pytest.fixture
def with_own_postgres(serving, own_postgres):
    return lambda: serving.start(database_url=own_postgres.url())


async def test_a_frozen_postgres_is_answered_for_and_recovers(with_own_postgres, own_postgres):
    server = with_own_postgres()
    server.post_policies(DENY_NEWS)
    cart = await join(server)
    async with tls_channel(server, cart) as channel:
        own_postgres.freeze()
        async with asyncio.timeout(ANSWER_SECONDS):
            # Istio's contract for a CA that cannot sign.
            assert await code_of(certify(channel)) is grpc.StatusCode.INTERNAL
        async with asyncio.timeout(ANSWER_SECONDS):
            refused = await asyncio.to_thread(lambda: server.ask("POST", "/v1/join-tokens", json={"spiffe_id": CART}))
        assert refused.status_code == 503
        assert not await check(channel, "/news")
        assert await check(channel, "/olds")
        eventually(lambda: reason(server, "database"), "readiness to name the database")
        own_postgres.thaw()
        server.wait_until_ready()
        assert (await certify(channel)).spiffe_id == CART


@pytest.fixture
def known(with_own_postgres):
    """A control plane that has kept a policy and a limit, and has ended."""
    server = with_own_postgres()
    server.post_policies(DENY_NEWS)
    server.put_quota("shop", ONE_A_DAY)
    banned = server.ask("PUT", f"/v1/identities/{BANNED}/ban", json={"reason": "stolen key", "ttl_seconds": 86400})
    assert banned.status_code == 200
    kept = server.directory / "last-good"
    eventually(lambda: b"no-news" in content(kept / "policy"), "the policy to be kept")
    eventually(lambda: b"shop" in content(kept / "quota"), "the limit to be kept")
    eventually(lambda: b"stolen key" in content(kept / "bans"), "the ban to be kept")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in kept.iterdir()} == {0o600}
    kinds = {"policy", "quota", "request_authentication", "peer_authentication", "credential_authentication"}
    assert {file.name for file in kept.iterdir()} == {"api_keys", "bans", "ca", "jwks", *kinds}
    return server


def content(path):
    return path.read_bytes() if path.exists() else b""


async def test_a_restart_without_postgres_decides_by_what_was_last_good_and_recovers(
    known, serving, own_postgres, with_own_postgres
):
    cart = await join(known)
    roots = known.roots
    known.kill()
    own_postgres.stop()
    server = serving.launch(database_url=own_postgres.url()).wait_until_listening()
    assert server.roots == roots
    eventually(lambda: not reason(server, "mesh"), "the TLS port")
    async with tls_channel(server, cart) as channel:
        assert not await check(channel, "/news")
        assert await check(channel, "/olds")
        assert [(await rate_limit(channel, "shop")).overall_code for _ in range(2)] == [1, 2]
        assert await code_of(certify(channel)) is grpc.StatusCode.INTERNAL
    async with plaintext_channel(server) as channel:
        assert not await check(channel, "/news")
        assert await check(channel, "/olds")
        assert not await check(channel, "/olds", principal=BANNED)
    assert "cannot connect" in reason(server, "database")
    assert "last good" in reason(server, "policies")
    assert "last good" in reason(server, "quotas")
    assert server.ask("GET", "/v1/policies").status_code == 503
    assert server.ask("GET", "/v1/policies/shop/no-news").status_code == 503
    assert server.ask("POST", "/v1/policies", content=DENY_NEWS).status_code == 503
    assert server.metrics()['meshward_config_stale{kind="policy"}'] == 1
    own_postgres.start()
    server.wait_until_ready()
    assert server.events("database_back")
    eventually(lambda: server.metrics()['meshward_config_stale{kind="policy"}'] == 0, "the documents to be current")
    assert [each["name"] for each in server.items("/v1/policies")] == ["no-news"]
    async with tls_channel(server, cart) as channel:
        assert (await certify(channel)).spiffe_id == CART
        assert not await check(channel, "/news")
    assert server.ask("DELETE", "/v1/policies/shop/no-news").status_code == 204
    async with plaintext_channel(server) as channel:
        assert await check(channel, "/news")
        assert not await check(channel, "/olds", principal=BANNED)
        assert server.ask("DELETE", f"/v1/identities/{BANNED}/ban").status_code == 204
        assert await check(channel, "/olds", principal=BANNED)


async def test_a_start_with_a_frozen_postgres_decides_too(known, serving, own_postgres):
    known.kill()
    own_postgres.freeze()
    server = serving.launch(database_url=own_postgres.url()).wait_until_listening()
    async with plaintext_channel(server) as channel:
        assert not await check(channel, "/news")
    own_postgres.thaw()
    server.wait_until_ready()
    # Its passes lock several tables, as the end of this test does, which removes them.
    assert server.stop() == 0


def damaged(path):
    path.write_bytes(path.read_bytes().replace(b"no-news", b"no-olds").replace(b"/bad", b"/god"))


def open_to_others(path):
    path.chmod(0o644)


def linked(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


@pytest.mark.parametrize(
    ("name", "spoil", "said"),
    [
        ("policy", damaged, "damaged"),
        ("policy", open_to_others, "chmod 600"),
        ("policy", linked, "symbolic link"),
        ("bans", damaged, "damaged"),
    ],
)
async def test_a_kept_file_that_cannot_be_trusted_decides_nothing(known, serving, own_postgres, name, spoil, said):
    known.kill()
    own_postgres.stop()
    spoil(known.directory / "last-good" / name)
    refused = serving.launch(database_url=own_postgres.url())
    assert refused.wait() == 1
    assert "cannot connect" in refused.log_text
    assert said in refused.log_text


async def test_what_is_kept_of_one_database_is_not_used_for_another(known, serving, own_postgres):
    known.kill()
    own_postgres.stop()
    refused = serving.launch(database_url=own_postgres.url("another"))
    assert refused.wait() == 1
    assert "of another database" in refused.log_text
