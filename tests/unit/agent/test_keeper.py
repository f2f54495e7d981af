"""Enrolment, renewal and outages, with time that moves only when the agent waits."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from app.agent.identity import Identity, JoinToken
from app.agent.keeper import IdentityKeeper
from app.agent.options import TokenSource
from app.agent.secrets import HeldSecrets
from app.core.errors import (
    InvalidInputError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
    UnavailableError,
)
from app.spiffe.keys import key_id
from app.spiffe.principal import Credential, Principal
from app.telemetry.metrics import Metrics
from tests.assets.certificates import CART, MeshCa
from tests.fakes.clock import ManualClock
from tests.fakes.mesh_ca import FakeAuthority
from tests.fakes.sleep import JumpingSleep

PATIENCE = 5
AWAY = UnavailableError("the control plane at ca:15012 cannot be reached")


class Memory:
    """Keeps identities in memory; `failure`, if set, is raised instead."""

    def __init__(self) -> None:
        self.saved: list[Identity] = []
        self.failure = None

    def save(self, identity):
        if self.failure:
            raise self.failure
        self.saved.append(identity)


class World:
    def __init__(self, tokens=None) -> None:
        self.clock = ManualClock()
        self.authority = FakeAuthority(self.clock)
        self.memory = Memory()
        self.metrics = Metrics()
        self.held = HeldSecrets(self.clock, self.metrics)
        self.sleep = JumpingSleep(self.clock)
        self.keeper = self.another(tokens or TokenSource("token-1"))

    def another(self, tokens):
        return IdentityKeeper(
            self.authority,
            self.held,
            read_token=tokens.read,
            save=self.memory.save,
            clock=self.clock,
            sleep=self.sleep,
            chance=lambda: 0.5,
        )

    def proofs(self):
        return [proof for proof, _ in self.authority.calls]

    @asynccontextmanager
    async def keeping(self, waits):
        """The agent at work until it has waited this many times."""
        self.sleep.limit = len(self.sleep.sleeps) + waits
        self.sleep.exhausted.clear()
        task = asyncio.ensure_future(self.keeper.keep())
        exhausted = asyncio.ensure_future(self.sleep.exhausted.wait())
        done, _ = await asyncio.wait({task, exhausted}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        assert done == {exhausted}, task
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})


@pytest.fixture
def world():
    return World()


def svid_end(metrics):
    """The end of the SVID as the metrics have it."""
    name = "meshward_agent_svid_expiry_timestamp_seconds "
    (line,) = (line for line in metrics.render().decode().splitlines() if line.startswith(name))
    return float(line.removeprefix(name))


def events(logs):
    return [entry["event"] for entry in logs]


async def test_a_token_is_redeemed_once_and_the_identity_is_saved_and_held(world):
    identity = await world.keeper.obtain()
    assert str(identity.svid.spiffe_id) == CART
    assert world.proofs() == [JoinToken("token-1")]
    assert world.memory.saved == [identity]
    assert world.held.identity is identity
    assert svid_end(world.metrics) == identity.svid.not_after.timestamp()


async def test_it_renews_at_half_life_with_a_new_key_and_its_own_svid(world):
    first = await world.keeper.obtain()
    async with world.keeping(waits=61):  # half an hour in waits of half a minute, and one more
        pass
    second = world.held.identity
    assert world.proofs() == [JoinToken("token-1"), first]
    assert second.svid.private_key != first.svid.private_key
    assert world.authority.calls[0][1] != world.authority.calls[1][1]
    assert second.svid.not_after - first.svid.not_after == timedelta(minutes=30)
    assert world.memory.saved == [first, second]
    assert svid_end(world.metrics) == second.svid.not_after.timestamp()


async def test_an_outage_at_the_start_is_retried_with_growing_pauses_and_logged_once(world):
    world.authority.failure = AWAY

    def recover():
        if len(world.sleep.sleeps) == 5:
            world.authority.failure = None

    world.sleep.hook = recover
    with capture_logs() as logs:
        await world.keeper.obtain()
    assert world.sleep.sleeps == [pytest.approx(0.4375 * 2**n) for n in range(5)]
    assert events(logs) == ["control_plane_away", "control_plane_back", "svid_issued"]


@pytest.mark.parametrize(
    "refusal",
    [
        UnauthenticatedError("token unknown"),
        PermissionDeniedError("banned"),
        InvalidInputError("bad request"),
        PreconditionError("the server is not trusted"),
    ],
)
async def test_a_refusal_at_the_first_enrolment_ends_it_with_its_reason(world, refusal):
    world.authority.failure = refusal
    with pytest.raises(type(refusal), match=f"enrolment failed: {refusal.message}"):
        await world.keeper.obtain()
    assert len(world.authority.calls) == 1
    assert world.sleep.sleeps == []


async def test_without_a_token_or_an_identity_the_error_says_what_to_do():
    world = World(TokenSource())
    with pytest.raises(PreconditionError, match="meshward token create"):
        await world.keeper.obtain()
    assert world.authority.calls == []


async def test_a_saved_identity_is_resumed_without_a_token(world):
    identity = await world.keeper.obtain()
    restarted = world.another(TokenSource())
    restarted.resume(identity)
    assert await restarted.obtain() is identity
    assert len(world.authority.calls) == 1


async def test_a_saved_identity_past_half_of_its_life_is_renewed_at_once(world):
    first = await world.keeper.obtain()
    world.clock.advance(3000)
    world.keeper = world.another(TokenSource())
    world.keeper.resume(first)
    async with world.keeping(waits=2):
        assert world.held.identity is not first
    assert world.proofs()[-1] is first


async def test_an_expired_saved_identity_needs_a_new_token_and_the_error_says_so(world):
    identity = await world.keeper.obtain()
    world.clock.advance(3601)
    restarted = world.another(TokenSource())
    restarted.resume(identity)
    with pytest.raises(PreconditionError, match=rf"{CART} expired at 2026-01-01T13:00.*meshward token create"):
        await restarted.obtain()


async def test_an_expired_saved_identity_is_replaced_with_a_new_token_even_of_another_workload(world):
    identity = await world.keeper.obtain()
    world.clock.advance(3601)
    world.authority.token = "token-2"
    world.authority.names = {"uris": ("spiffe://example.org/ns/shop/sa/till",)}
    restarted = world.another(TokenSource("token-2"))
    restarted.resume(identity)
    assert str((await restarted.obtain()).svid.spiffe_id) == "spiffe://example.org/ns/shop/sa/till"


async def test_while_the_control_plane_is_away_the_svid_is_served_and_the_outage_is_logged_once(world):
    identity = await world.keeper.obtain()
    world.authority.failure = AWAY
    session = world.held.open(Principal(Credential.LOOPBACK))
    with capture_logs() as logs:
        async with world.keeping(waits=75):
            assert await session.svid() is identity.svid
    assert events(logs) == ["control_plane_away"]
    assert len(world.authority.calls) > 5


async def test_it_recovers_when_the_control_plane_comes_back(world):
    first = await world.keeper.obtain()
    world.authority.failure = AWAY
    async with world.keeping(waits=70):
        pass
    world.authority.failure = None
    with capture_logs() as logs:
        async with world.keeping(waits=10):
            pass
    assert events(logs) == ["control_plane_back", "svid_issued"]
    assert world.held.identity is not first


@pytest.mark.parametrize("refusal", [UnauthenticatedError("banned"), PreconditionError("another root"), AWAY])
async def test_no_answer_of_the_control_plane_ends_a_running_agent(world, refusal):
    identity = await world.keeper.obtain()
    world.authority.failure = refusal
    async with world.keeping(waits=70):
        assert world.held.identity is identity


async def test_an_svid_that_expires_during_an_outage_is_no_longer_served_and_streams_are_woken(world):
    await world.keeper.obtain()
    world.authority.failure = AWAY
    session = world.held.open(Principal(Credential.LOOPBACK))
    await session.svid()
    waiting = asyncio.ensure_future(session.wait_for_change())
    with capture_logs() as logs:
        async with world.keeping(waits=300):
            await asyncio.wait_for(waiting, PATIENCE)
            with pytest.raises(UnavailableError, match=f"{CART} expired at 2026-01-01T13:00"):
                await session.svid()
            assert await session.bundle()
    assert events(logs) == ["control_plane_away", "svid_expired"]


async def test_a_token_that_appears_after_expiry_is_redeemed_while_running(world):
    class Drop:
        token = None

        def read(self):
            return self.token

    drop = Drop()
    identity = await world.keeper.obtain()
    world.keeper = world.another(drop)
    world.keeper.resume(identity)
    world.clock.advance(3601)
    async with world.keeping(waits=3):
        assert world.held.identity is identity
    drop.token = JoinToken("wrong")
    async with world.keeping(waits=50):
        pass
    assert world.proofs().count(JoinToken("wrong")) == 1  # what was refused is not sent again
    drop.token, world.authority.token = JoinToken("token-2"), "token-2"
    async with world.keeping(waits=5):
        assert world.held.identity is not identity


async def test_a_token_that_an_untrusted_server_never_received_is_redeemed_at_the_right_server(world):
    identity = await world.keeper.obtain()
    world.keeper = world.another(TokenSource("token-2"))
    world.keeper.resume(identity)
    world.clock.advance(3601)
    world.authority.failure = PreconditionError("the server is not trusted")
    async with world.keeping(waits=3):
        assert world.held.identity is identity
    world.authority.failure, world.authority.token = None, "token-2"
    async with world.keeping(waits=5):
        assert world.held.identity is not identity


async def test_a_token_file_that_becomes_malformed_does_not_end_a_running_agent(world):
    class Bad:
        def read(self):
            raise InvalidInputError("two words")

    identity = await world.keeper.obtain()
    world.keeper = world.another(Bad())
    world.keeper.resume(identity)
    world.clock.advance(3601)
    async with world.keeping(waits=5):
        assert world.held.identity is identity


async def test_a_renewal_never_changes_the_spiffe_id(world):
    identity = await world.keeper.obtain()
    world.authority.names = {"uris": ("spiffe://example.org/ns/shop/sa/till",)}
    with capture_logs() as logs:
        async with world.keeping(waits=70):
            pass
    assert world.held.identity is identity
    assert "is for spiffe://example.org/ns/shop/sa/till, not for" in logs[0]["reason"]


@pytest.mark.parametrize("kind", [PreconditionError, UnavailableError])
async def test_an_identity_that_cannot_be_saved_is_served(world, kind):
    world.memory.failure = kind("cannot write identity.json: No space left on device")
    with capture_logs() as logs:
        identity = await world.keeper.obtain()
    assert world.held.identity is identity
    assert "svid_not_saved" in events(logs)


async def test_a_renewal_brings_new_roots(world):
    first = await world.keeper.obtain()
    old = world.authority.ca
    session = world.held.open(Principal(Credential.LOOPBACK))
    await session.bundle()
    waiting = asyncio.ensure_future(session.wait_for_change())
    world.authority.ca = type(old)(world.clock.now())
    async with world.keeping(waits=61):
        await asyncio.wait_for(waiting, PATIENCE)
    assert (await session.bundle()).roots != first.bundle.roots


async def test_a_renewal_under_the_same_roots_does_not_wake_streams_of_the_bundle_alone(world):
    await world.keeper.obtain()
    session = world.held.open(Principal(Credential.LOOPBACK))
    await session.bundle()
    waiting = asyncio.ensure_future(session.wait_for_change())
    async with world.keeping(waits=61):
        assert not waiting.done()
    waiting.cancel()


async def test_no_key_and_no_token_is_logged(world):
    with capture_logs() as logs:
        identity = await world.keeper.obtain()
        world.authority.failure = AWAY
        async with world.keeping(waits=200):
            pass
    assert "token-1" not in repr(logs)
    assert "PRIVATE KEY" not in repr(logs) + repr(identity) + repr(JoinToken("token-1"))
    assert "token-1" not in repr(JoinToken("token-1")) + repr(TokenSource("token-1"))


def roots_of(world, *more):
    bundle = world.authority.ca.bundle
    return replace(bundle, roots=(*bundle.roots, *more))


async def test_a_pushed_bundle_is_served_and_saved(world):
    first = await world.keeper.obtain()
    pushed = roots_of(world, MeshCa(world.clock.now()).roots)
    world.keeper.trust(pushed)
    assert world.held.identity == Identity(first.svid, pushed)
    assert world.memory.saved == [first, world.held.identity]
    world.keeper.trust(pushed)
    assert len(world.memory.saved) == 2


async def test_a_renewal_does_not_bring_back_the_bundle_from_before_the_pushed_one(world):
    await world.keeper.obtain()
    pushed = roots_of(world, MeshCa(world.clock.now()).roots)
    world.keeper.trust(pushed)
    async with world.keeping(waits=61):
        pass
    assert len(world.proofs()) == 2
    assert world.held.identity.bundle == pushed
    world.keeper.unfollowed()
    async with world.keeping(waits=61):
        pass
    assert world.held.identity.bundle.roots == world.authority.ca.bundle.roots


async def test_pushed_revocation_lists_stay_when_an_answer_brings_other_roots_and_go_when_that_is_pushed(world):
    await world.keeper.obtain()
    now = world.clock.now()
    crl = world.authority.ca.signer.crl(7, now=now, end=now + timedelta(days=1))
    world.keeper.trust(replace(roots_of(world), crls=(crl,)))
    world.keeper.unfollowed()
    world.authority.ca = MeshCa(now)
    async with world.keeping(waits=61):
        pass
    assert world.held.identity.bundle == replace(roots_of(world), crls=(crl,))
    assert world.memory.saved[-1] == world.held.identity
    world.keeper.trust(roots_of(world))
    assert world.held.identity.bundle.crls == ()


async def test_an_svid_of_a_withdrawn_authority_is_renewed_at_once(world):
    first = await world.keeper.obtain()
    signer = key_id(world.authority.ca.signer.certificate.public_key()).hex()
    pushed = replace(roots_of(world), withdrawn=(signer,))
    world.keeper.trust(pushed)
    async with world.keeping(waits=1):
        pass
    assert world.proofs() == [JoinToken("token-1"), Identity(first.svid, pushed)]
    # The same authority signed the next one: it is not asked again and again.
    world.keeper.trust(pushed)
    assert world.held.identity.svid != first.svid


async def test_an_svid_that_the_pushed_bundle_does_not_trust_is_renewed_at_once(world):
    await world.keeper.obtain()
    world.authority.ca = MeshCa(world.clock.now())
    world.keeper.trust(roots_of(world))
    async with world.keeping(waits=1):
        pass
    assert len(world.proofs()) == 2
    assert world.held.identity.bundle == roots_of(world)


async def test_a_wait_of_half_a_minute_ends_when_there_is_a_reason_to_hurry(world):
    await world.keeper.obtain()
    signer = key_id(world.authority.ca.signer.certificate.public_key()).hex()
    asleep = asyncio.Event()

    async def sleep(_seconds):
        asleep.set()
        await asyncio.Event().wait()

    world.sleep = sleep
    keeper = world.another(TokenSource())
    keeper.resume(world.held.identity)
    task = asyncio.create_task(keeper.keep())
    await asyncio.wait_for(asleep.wait(), PATIENCE)
    asleep.clear()
    world.clock.advance(1)
    keeper.trust(replace(roots_of(world), withdrawn=(signer,)))
    await asyncio.wait_for(asleep.wait(), PATIENCE)  # until its share of the two seconds is over
    task.cancel()
