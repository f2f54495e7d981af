"""Two control planes on one PostgreSQL: one CA, one set of policies, one use of a join token."""

import asyncio

import grpc

from tests.assets.documents import DENY_NEWS
from tests.support.callers import CART, certify, check, code_of, join, plaintext_channel, tls_channel
from tests.support.serving import eventually_async

ATTEMPTS = 8


async def test_replicas_that_start_at_once_are_one_control_plane(replicas):
    one, two = replicas
    assert one.roots == two.roots
    assert one.roots.count(b"BEGIN CERTIFICATE") == 1
    assert one.get("/v1/ca")["root_id"] == two.get("/v1/ca")["root_id"]
    assert one.get("/v1/ca")["signer_id"] != two.get("/v1/ca")["signer_id"]
    assert one.get("/v1/ca")["root_key_held"] != two.get("/v1/ca")["root_key_held"]
    await each_takes_the_others_certificates(one, two)
    await a_policy_given_to_one_is_in_force_at_the_other(one, two)
    await a_join_token_of_one_is_taken_once_at_whichever(one, two)
    assert one.items("/v1/svids") == two.items("/v1/svids")
    # One of them ends: the other goes on by itself, whichever holds the root's key.
    assert one.stop() == 0
    async with tls_channel(two, await join(two)) as channel:
        assert not await check(channel, "/news")
        assert (await certify(channel)).spiffe_id == CART
    assert two.stop() == 0
    assert not any("Traceback" in server.log_text for server in replicas)


async def each_takes_the_others_certificates(one, two):
    for issuer, verifier in ((one, two), (two, one)):
        async with tls_channel(verifier, await join(issuer)) as channel:
            assert await check(channel)
            assert (await certify(channel)).leaf.issuer != (await join(issuer)).leaf.issuer


async def a_policy_given_to_one_is_in_force_at_the_other(one, two):
    async with plaintext_channel(two) as channel:
        assert await check(channel, "/news")
        one.post_policies(DENY_NEWS)

        async def denied():
            return not await check(channel, "/news")

        await eventually_async(denied, "the policy to be in force at the other replica", 10)
        assert one.ask("DELETE", "/v1/policies/shop/no-news").status_code == 204
        await eventually_async(lambda: check(channel, "/news"), "it to be out of force there", 10)
    two.post_policies(DENY_NEWS)


async def a_join_token_of_one_is_taken_once_at_whichever(one, two):
    token = one.join_token("spiffe://cluster.local/ns/shop/sa/once")
    async with tls_channel(one) as to_one, tls_channel(two) as to_two:
        calls = [code_of(certify(channel, token=token)) for channel in (to_one, to_two) * (ATTEMPTS // 2)]
        codes = await asyncio.gather(*calls)
    assert sorted(codes, key=str) == [grpc.StatusCode.OK] + [grpc.StatusCode.UNAUTHENTICATED] * (ATTEMPTS - 1)
