"""A ban given to one control plane is in effect at the other: on open connections and streams, on every surface."""

from contextlib import AsyncExitStack

import grpc
import httpx
import pytest
from typer.testing import CliRunner

from app.cli import cli
from tests.assets.certificates import pem
from tests.support.callers import (
    CALL_SECONDS,
    CART,
    certify,
    check,
    client_tls,
    code_of,
    join,
    opened_stream,
    plaintext_channel,
    rate_limit,
    tls_channel,
)
from tests.support.serving import eventually_async

OTHER = "spiffe://cluster.local/ns/shop-test/sa/cart"
SHOP = "spiffe://cluster.local/ns/shop/*"
OK, DENIED = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED


def meshward(server, *arguments):
    """Run a command against the admin port of a server."""
    environment = {"MESHWARD_ADMIN_TOKEN": server.token, "MESHWARD_DATA_DIR": str(server.directory)}
    result = CliRunner().invoke(cli, [*arguments, "--server", server.url], env=environment)
    assert result.exit_code == 0, result.output
    return result.output


class Caller:
    """The open connections of one identity: gRPC and HTTP."""

    def __init__(self, server, identity, stack):
        self.channel = tls_channel(server, identity)
        self._client = httpx.AsyncClient(verify=client_tls(server, identity), timeout=CALL_SECONDS)
        self._url = f"https://localhost:{server.tls_port}/ext_authz/"
        self._stack = stack

    async def open(self):
        for each in (self.channel, self._client):
            await self._stack.enter_async_context(each)
        self.stream = await opened_stream(self.channel)
        return self

    async def answers(self):
        """What each surface answers: three RPCs by their codes, and an HTTP check by its status."""
        codes = [
            await code_of(check(self.channel, principal=OTHER)),
            await code_of(rate_limit(self.channel, "none")),
            await code_of(certify(self.channel)),
        ]
        return codes, (await self._client.get(self._url)).status_code


async def read_to_the_end(stream):
    """The bundle with the revocation list may come before the end."""
    while await stream.read() is not grpc.aio.EOF:
        continue


ADMITTED = ([OK, OK, OK], 200)
REFUSED = ([DENIED, DENIED, DENIED], 403)


async def test_a_ban_reaches_the_open_connections_and_streams_of_the_other_replica_and_unbanning_undoes_it(replicas):
    one, two = replicas
    async with AsyncExitStack() as stack:
        cart = await Caller(two, await join(one, CART), stack).open()
        other = await Caller(two, await join(one, OTHER), stack).open()
        plain = await stack.enter_async_context(plaintext_channel(two))
        assert await cart.answers() == await other.answers() == ADMITTED
        assert await check(plain, principal=CART)

        meshward(one, "identity", "ban", SHOP, "--reason", "stolen key")
        assert SHOP in meshward(two, "identity", "list")

        async def refused():
            return await cart.answers() == REFUSED

        await eventually_async(refused, "the ban to be in effect at the other replica", 10)
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await read_to_the_end(cart.stream)
        assert (ended.value.code(), "stolen key" in ended.value.details()) == (DENIED, True)
        assert not await check(plain, principal=CART)
        assert not await check(other.channel, principal=CART)
        assert await check(plain, principal=OTHER)
        assert await other.answers() == ADMITTED
        assert not other.stream.done()
        token = one.join_token(CART)
        async with tls_channel(two) as stranger:
            assert await code_of(certify(stranger, token=token)) is DENIED

        meshward(two, "identity", "unban", SHOP)

        async def admitted():
            return await cart.answers() == ADMITTED

        await eventually_async(admitted, "the ban to be lifted", 10)
        assert await check(plain, principal=CART)
        async with tls_channel(one) as stranger:
            await eventually_async(lambda: _is_ok(certify(stranger, token=token)), "the token to be accepted", 10)
    assert not any("Traceback" in server.log_text for server in replicas)


async def _is_ok(call):
    return await code_of(call) is OK


async def test_a_revoked_certificate_is_refused_and_another_one_of_its_identity_is_not(replicas):
    one, two = replicas
    async with AsyncExitStack() as stack:
        revoked, valid = await join(one), await join(one)
        lost = await Caller(two, revoked, stack).open()
        kept = await Caller(two, valid, stack).open()
        plain = await stack.enter_async_context(plaintext_channel(two))
        serial = f"{revoked.leaf.serial_number:X}"
        meshward(one, "identity", "revoke", serial, "--reason", "laptop lost")

        async def refused():
            return await lost.answers() == REFUSED

        await eventually_async(refused, "the revocation to be in effect at the other replica", 10)
        assert await kept.answers() == ADMITTED
        for identity, allowed in ((revoked, False), (valid, True)):
            assert await check(plain, principal=CART, certificate=pem(identity.leaf)) is allowed
        meshward(two, "identity", "unrevoke", serial)
        await eventually_async(lambda: _is(lost.answers, ADMITTED), "the revocation to be undone", 10)


async def _is(ask, expected):
    return await ask() == expected
