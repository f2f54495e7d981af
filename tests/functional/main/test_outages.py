"""A control plane whose PostgreSQL stops or freezes."""

import asyncio

import grpc
import httpx
import pytest

from tests.assets.documents import DENY_NEWS
from tests.support.callers import CART, certify, check, code_of, join, tls_channel
from tests.support.serving import eventually

# Twice what the operations guide promises, as the machine that runs the tests may be busy; tests/functional/db has the
# promise itself.
ANSWER_SECONDS = 10


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
