"""API keys of one control plane are accepted and refused by the other, and are in no log."""

from typer.testing import CliRunner

from app.cli import cli
from tests.assets.request_authentications import credential_authentication
from tests.fakes.authz import policy
from tests.support.callers import check, plaintext_channel
from tests.support.serving import eventually_async

PARTNERS = policy("{rules: [{from: [{source: {requestPrincipals: ['meshward.io/api-keys/partner-a']}}]}]}")


def meshward(server, *arguments):
    """What a command prints on standard output, run against the admin port of a server."""
    environment = {"MESHWARD_ADMIN_TOKEN": server.token, "MESHWARD_DATA_DIR": str(server.directory)}
    result = CliRunner().invoke(cli, ["api-key", *arguments, "--server", server.url], env=environment)
    assert result.exit_code == 0, result.output
    return result.stdout


async def test_a_key_that_one_replica_makes_and_revokes_is_accepted_and_refused_by_the_other(replicas):
    one, two = replicas
    one.post_policies(PARTNERS)
    applied = one.ask("POST", "/v1/credential-authentications", content=credential_authentication())
    assert applied.status_code == 201, applied.text
    key = meshward(one, "create", "--subject", "partner-a", "--namespace", "shop", "--label", "tier=gold").strip()
    async with plaintext_channel(two) as channel:

        async def accepted():
            return await check(channel, headers={"x-api-key": key})

        async def refused():
            return not await accepted()

        async def unknown():
            return not await check(channel) and not await check(channel, headers={"x-api-key": "x"})

        await eventually_async(unknown, "the documents to be active")
        await eventually_async(accepted, "the key to be accepted")
        assert not await check(channel, headers={"x-api-key": key + "x"})
        (listed,) = two.items("/v1/api-keys")
        assert "tier=gold" in meshward(two, "list")
        assert listed["id"] in meshward(two, "revoke", listed["id"])
        assert await refused()
    async with plaintext_channel(one) as channel:
        await eventually_async(refused, "the key to be refused")
    for server in replicas:
        assert key not in server.log_text
