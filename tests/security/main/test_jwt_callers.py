"""JWTs at a running control plane: good ones get certificates, each hostile one a reason that is counted."""

import asyncio
import json
from datetime import UTC, datetime

import grpc
import pytest

from tests.assets.discovery import request
from tests.assets.jwts import ISSUER, RSA_KEY, hostile, jwks, token
from tests.support.callers import CART, certify, code_of, plaintext_channel, stream_secrets, tls_channel
from tests.support.jwks_server import JwksServer, answers, hangs
from tests.support.serving import eventually_async

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
BAD_SERVERS = {
    "hangs": hangs,
    "answers garbage": answers(b"<html>"),
    "redirects": answers(b"", "302 Found", location="http://127.0.0.1:1/"),
}


def now():
    return datetime.now(UTC)


def refused(server, reason):
    """How many calls were refused for the reason."""
    return server.metrics().get(f'meshward_refusals_total{{reason="jwt_{reason}",surface="grpc"}}', 0)


def faults(server):
    """What the log says that went wrong inside the control plane."""
    return [event for event in server.events() if event["event"] in {"rpc_failed", "task_ended"}] + [
        line for line in server.log_text.splitlines() if "Traceback" in line
    ]


@pytest.fixture
async def issuer():
    async with JwksServer().running() as server:
        yield server


@pytest.fixture
def start(serving, issuer):
    """Starts a control plane that trusts the issuer."""
    issuers = [{"issuer": ISSUER, "jwks": issuer.url}]

    async def start():
        return await asyncio.to_thread(serving.start, ca_jwt_issuers=json.dumps(issuers))

    return start


async def test_a_service_account_gets_certificates_with_one_token_again_and_again(start):
    server, presented = await start(), token(now())
    async with tls_channel(server) as channel:
        for _ in range(3):
            assert (await certify(channel, token=presented)).spiffe_id == CART
    records = await asyncio.to_thread(server.items, f"/v1/svids?spiffe_id={CART}")
    assert [record["surface"] for record in records] == ["istio_ca"] * 3
    assert presented.split(".")[2] not in server.log_text


async def test_a_service_account_gets_its_secrets_on_this_machine(start):
    server = await start()
    async with plaintext_channel(server) as channel:
        call = stream_secrets(channel, token(now()))
        await call.write(request("default"))
        assert (await call.read()).resources
        call.cancel()


async def test_a_join_token_works_beside(start):
    server = await start()
    async with tls_channel(server) as channel:
        secret = await asyncio.to_thread(server.join_token, CART)
        assert (await certify(channel, token=secret)).spiffe_id == CART
        assert await code_of(certify(channel, token=secret)) is UNAUTHENTICATED


async def test_each_hostile_token_is_unauthenticated_for_a_reason_that_is_counted(start):
    server = await start()
    for name, (text, reason) in hostile(now()).items():
        before = await asyncio.to_thread(refused, server, reason)
        async with tls_channel(server) as channel:
            assert await code_of(certify(channel, token=text)) is UNAUTHENTICATED, name
        assert await asyncio.to_thread(refused, server, reason) == before + 1, name
    assert faults(server) == []


@pytest.mark.parametrize("behaviour", BAD_SERVERS.values(), ids=BAD_SERVERS)
async def test_without_the_keys_of_its_issuer_no_token_is_believed(start, issuer, behaviour):
    issuer.behaviour = behaviour
    server = await start()
    async with tls_channel(server) as channel:
        assert await code_of(certify(channel, token=token(now()))) is UNAUTHENTICATED
    assert await asyncio.to_thread(refused, server, "keys_unavailable") == 1

    async def is_logged():
        return server.events("jwks_refresh_failed")

    await eventually_async(is_logged, "the failure in the log")
    assert faults(server) == []


@pytest.mark.parametrize("behaviour", BAD_SERVERS.values(), ids=BAD_SERVERS)
async def test_the_last_good_keys_go_on_while_the_server_does_not_answer_well(start, issuer, behaviour):
    server = await start()
    async with tls_channel(server) as channel:
        assert (await certify(channel, token=token(now()))).spiffe_id == CART
        issuer.behaviour = behaviour
        assert await code_of(certify(channel, token=token(now(), kid="new"))) is UNAUTHENTICATED
        assert (await certify(channel, token=token(now()))).spiffe_id == CART
    assert faults(server) == []


async def test_a_flood_of_unknown_keys_asks_the_issuer_no_more_than_once_in_ten_seconds(start, issuer):
    server = await start()
    issuer.behaviour = answers(jwks({"rsa": RSA_KEY}))
    began = asyncio.get_running_loop().time()
    async with tls_channel(server) as channel:
        guesses = [certify(channel, token=token(now(), kid=f"guess-{number}")) for number in range(100)]
        assert set(await asyncio.gather(*map(code_of, guesses))) == {UNAUTHENTICATED}
    assert len(issuer.requests) <= 2 + (asyncio.get_running_loop().time() - began) / 10
