"""What a control plane was told, it knows after a restart, and after a crash."""

import signal
from datetime import UTC, datetime

import grpc
import pytest

from tests.assets.documents import DENY_NEWS, ONE_A_DAY
from tests.support.callers import (
    CART,
    certify,
    check,
    code_of,
    join,
    plaintext_channel,
    rate_limit,
    tls_channel,
)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=["a restart", "a crash"])
async def test_everything_survives(serving, end):
    before = serving.start()
    before.post_policies(DENY_NEWS)
    before.put_quota("shop", ONE_A_DAY)
    entry = {"spiffe_id": CART, "x509_svid_ttl_seconds": 600, "dns_names": ["cart.shop.svc"], "hint": "cart"}
    assert before.ask("POST", "/v1/entries", json=entry).status_code == 201
    used, unused = before.join_token(CART), before.join_token(CART)
    async with tls_channel(before) as channel:
        cart = await certify(channel, token=used)
    paths = ("/v1/policies", "/v1/quota/configs", "/v1/entries", "/v1/join-tokens", "/v1/ca/authorities", "/v1/ca")
    told = {path: before.get(path) for path in paths}
    svids = before.items("/v1/svids")
    token, roots = before.token, before.roots
    before.signal(end)
    before.wait()

    after = serving.start()
    assert after.token == token
    assert after.roots == roots
    assert {path: after.get(path) for path in paths} == told
    kept = after.items("/v1/svids")
    assert [svid for svid in kept if svid in svids] == svids
    assert any(svid["spiffe_id"] == CART and svid["join_token_id"] for svid in svids)
    async with plaintext_channel(after) as channel:
        assert not await check(channel, "/news")
        assert await check(channel, "/olds")
        answers = [(await rate_limit(channel, "shop")).overall_code for _ in range(2)]
        assert answers == [1, 2]
    async with tls_channel(after) as channel:
        assert await code_of(certify(channel, token=used)) is grpc.StatusCode.UNAUTHENTICATED
        assert (await certify(channel, token=unused)).spiffe_id == CART
    # The certificate of before the restart is good after it, and renews itself.
    async with tls_channel(after, cart) as channel:
        renewed = await certify(channel)
    assert renewed.spiffe_id == CART
    assert (renewed.leaf.not_valid_after_utc - datetime.now(UTC)).total_seconds() <= 600
    assert renewed.leaf.issuer == cart.leaf.issuer


async def test_a_control_plane_that_is_started_twice_on_one_data_directory_works_twice(serving):
    one = serving.start()
    two = serving.start()
    assert one.roots == two.roots
    cart = await join(one)
    async with tls_channel(two, cart) as channel:
        assert (await certify(channel)).spiffe_id == CART
