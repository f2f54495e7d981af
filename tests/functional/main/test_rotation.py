"""A root is replaced by one with a new key at two control planes on one PostgreSQL, with streams at both."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import grpc

from app.agent.authority import MeshAuthority
from app.agent.following import TrustFollower
from app.agent.identity import Identity, JoinToken, accept_answer, make_request
from app.agent.secrets import HeldSecrets
from app.core.clock import SystemClock
from app.core.net import Address
from app.spiffe.bundle import TrustBundle
from app.spiffe.id import TrustDomain
from app.spiffe.subscribers import Subscribers
from app.telemetry.metrics import Metrics
from tests.assets.discovery import request, secret_of
from tests.support.callers import CART, join, presented_certificate, stream_secrets, tls_channel
from tests.support.serving import eventually, eventually_async

NEWS = "spiffe://cluster.local/ns/press/sa/news"
NAMES = ("default", "ROOTCA")


class Sidecar:
    """A client with an SDS stream, which it opens again where it ends; it accepts what it gets when a test says so."""

    def __init__(self, server, identity) -> None:
        self._server, self._identity = server, identity
        self.may_accept = asyncio.Event()
        self.roots, self.chain = 0, b""

    @staticmethod
    @asynccontextmanager
    async def running(server, spiffe_id):
        sidecar = Sidecar(server, await join(server, spiffe_id))
        task = asyncio.create_task(sidecar._run())
        try:
            yield sidecar
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self):
        while True:
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                async with tls_channel(self._server, self._identity) as channel:
                    await self._follow(stream_secrets(channel))
            await asyncio.sleep(0.1)

    async def _follow(self, call):
        await call.write(request(*NAMES, node={"id": f"sidecar of {self._identity.spiffe_id}"}))
        while (response := await call.read()) is not grpc.aio.EOF:
            for body in response.resources:
                secret = secret_of(body)
                if secret.name == "ROOTCA":
                    self.roots = secret.validation_context.trusted_ca.inline_bytes.count(b"BEGIN CERTIFICATE")
                else:
                    self.chain = secret.tls_certificate.certificate_chain.inline_bytes
            await self.may_accept.wait()
            await call.write(request(*NAMES, nonce=response.nonce, version=response.version_info))

    async def until(self, condition, what):
        async def holds():
            return condition(self)

        await eventually_async(holds, what)


class Agent:
    """The agent's part that follows the trust bundle, with an identity of its own."""

    def __init__(self, server, identity) -> None:
        self.held = HeldSecrets(SystemClock(), Metrics())
        self.held.hold(identity)
        self.follower = TrustFollower(
            Agent.authority(server), self.held, Subscribers(SystemClock().monotonic, away_seconds=0), self
        )
        self.bundle = identity.bundle

    @staticmethod
    def authority(server):
        bundle = TrustBundle(TrustDomain("cluster.local"), (server.roots.decode(),))
        return MeshAuthority(Address("127.0.0.1", server.tls_port), "localhost", bundle)

    @staticmethod
    async def enrolled(server):
        made = make_request()
        token = JoinToken(server.join_token("spiffe://cluster.local/ns/shop/sa/agent"))
        answer = await Agent.authority(server).certify(made.csr, token)
        return Agent(server, accept_answer(made.private_key, answer, SystemClock().now()))

    def trust(self, bundle):
        self.bundle = bundle
        self.held.hold(Identity(self.held.current().svid, bundle))

    def unfollowed(self):
        """Nothing is renewed here."""


def change(server, root, step, **body):
    return server.ask("POST", f"/v1/ca/authorities/{root}/{step}", json=body)


def stages(server):
    return {root["id"]: root["stage"] for root in server.get("/v1/ca/authorities")["roots"]}


async def until_stages(servers, expected):
    """Wait until each server says so, and let the streams of this test go on meanwhile."""
    for server in servers:

        async def holds(server=server):
            return stages(server) == expected

        await eventually_async(holds, f"the stages {expected}")


async def test_a_root_is_replaced_once_the_streams_of_all_replicas_have_accepted_the_new_one(replicas):
    one, two = replicas
    old = one.get("/v1/ca")["root_id"]
    agent = await Agent.enrolled(one)
    following = asyncio.create_task(agent.follower.follow())
    async with AsyncExitStack() as stack:
        sidecars = [
            await stack.enter_async_context(Sidecar.running(server, spiffe_id))
            for server, spiffe_id in ((one, CART), (two, NEWS))
        ]
        cart, news = sidecars
        for sidecar in sidecars:
            sidecar.may_accept.set()
            await sidecar.until(lambda each: each.roots == 1, "the trust bundle")
        news.may_accept.clear()

        # Prepared: in every bundle, at every replica.
        new = one.ask("POST", "/v1/ca/authorities").json()["id"]
        for sidecar in sidecars:
            await sidecar.until(lambda each: each.roots == 2, "both roots")
        assert change(two, new, "activate").json()["stage"] == "activating"

        # Activating: the one that has not accepted it is named, by the replica that it is not connected to.
        async def only_news_is_behind():
            found = one.get(f"/v1/ca/authorities/{new}/acknowledgements")
            return [each["spiffe_id"] for each in found["behind"]] == [NEWS] and not found["replicas"] and found

        waiting = await eventually_async(only_news_is_behind, "the other stream to be waited for alone")
        assert waiting["behind"][0]["node"] == f"sidecar of {NEWS}"
        # Its certificate came with the old bundle too; the agent and the other sidecar have accepted the new one since.
        assert waiting["identities"] == [NEWS]
        await until_stages(replicas, {old: "active", new: "activating"})
        news.may_accept.set()
        await until_stages(replicas, {old: "old", new: "active"})
        assert len(agent.bundle.roots) == 2

        # Tainted: streams get other certificates, without having asked.
        before = {cart.chain, news.chain}
        assert change(one, old, "taint").json()["stage"] == "tainted"
        for sidecar in sidecars:
            await sidecar.until(lambda each: each.chain not in before, "another certificate")
        await eventually_async(lambda: is_withdrawn(agent), "the agent to know what is withdrawn")

        # Revoked, by force: the agent of this test does not renew.
        refused = change(one, old, "revoke")
        assert refused.status_code == 409
        assert "sa/agent" in refused.json()["detail"]

        async def revoked():
            return change(one, old, "revoke", force=True).status_code == 200

        await eventually_async(revoked, "the old root to be revoked")
        for sidecar in sidecars:
            await sidecar.until(lambda each: each.roots == 1, "the new root alone")
        await until_stages(replicas, {old: "revoked", new: "active"})
    following.cancel()
    for server in replicas:
        eventually(lambda server=server: server.roots.count(b"BEGIN CERTIFICATE") == 1, "the bundle to be written")
        assert presented_certificate(server)
        assert (await join(server)).spiffe_id == CART
        assert server.ask("GET", "/readyz").status_code == 200
        assert not any("Traceback" in line for line in server.log_text.splitlines())


async def is_withdrawn(agent):
    return bool(agent.bundle.withdrawn)
