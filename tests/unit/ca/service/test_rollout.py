"""A root is activated once everybody has accepted the trust bundle with it: streams, identities and replicas."""

from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from app.ca.backends.memory import MemoryKeyStore
from app.ca.model import OnTimeout, RotationConfig, Stage, Surface
from app.ca.service import CaService
from app.core.errors import NotFoundError, PreconditionError
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Credential, Principal
from app.telemetry.metrics import Metrics
from tests.assets.csrs import csr
from tests.fakes.ca_store import MemoryPublisher
from tests.fakes.clock import ManualClock
from tests.fakes.principals import OPERATOR

CART = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
NEWS = SpiffeId.parse("spiffe://example.org/ns/press/sa/news")
DAY = 24 * 3600


class Sidecar:
    """A stream that asks for the bundle of a replica."""

    def __init__(self, ca, stack, spiffe_id=CART, node="sidecar-1") -> None:
        self.ca = ca
        self.stream = stack.enter_context(ca.subscribers.opened(spiffe_id, "10.0.0.7:4711"))
        self.stream.node = node
        ca.subscribers.answered(self.stream, subscribed=True, bundle=None, problem="")

    def accept(self):
        version = self.ca.authorities.bundle().version
        self.ca.subscribers.answered(self.stream, subscribed=True, bundle=version, problem="")

    def refuse(self, problem):
        self.ca.subscribers.answered(self.stream, subscribed=True, bundle=self.stream.bundle, problem=problem)


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def replica(config, transactions, clock):
    def make(**rotation):
        changed = replace(config, rotation=replace(RotationConfig(prepare_at=None), **rotation))
        return CaService(changed, transactions, MemoryKeyStore(), MemoryPublisher(), clock, Metrics())

    return make


async def passes(clock, *services, count=2):
    for _ in range(count):
        clock.advance(1)
        for service in services:
            await service.maintain()


def stage(ca, root):
    return ca.authorities.trust().stage(root.id)


async def issue(ca, spiffe_id):
    caller = Principal(Credential.SVID, spiffe_id)
    return await ca.issuance.issue(caller, csr(), 0, Surface.ISTIO_CA)


async def test_with_nobody_connected_a_root_is_active_with_the_next_pass(ca, clock):
    root = await ca.authorities.roots.prepare(OPERATOR)
    await passes(clock, ca)
    await ca.authorities.roots.activate(OPERATOR, root.id)
    assert stage(ca, root) is Stage.ACTIVATING
    await passes(clock, ca)
    assert stage(ca, root) is Stage.ACTIVE


async def test_activation_waits_for_each_stream_and_names_it(ca, clock, stack):
    one, two = Sidecar(ca, stack), Sidecar(ca, stack, NEWS, "sidecar-2")
    root = await ca.authorities.roots.prepare(OPERATOR)
    await ca.authorities.roots.activate(OPERATOR, root.id)
    await passes(clock, ca)
    found = await ca.rollout.acknowledgements(root.id)
    assert (found.streams, found.behind_count) == (2, 2)
    one.accept()
    two.refuse("cannot parse the roots")
    await passes(clock, ca)
    (behind,) = (await ca.rollout.acknowledgements(root.id)).behind
    assert behind == (str(NEWS), "10.0.0.7:4711", "sidecar-2", "cannot parse the roots")
    assert stage(ca, root) is Stage.ACTIVATING
    two.accept()
    await passes(clock, ca)
    assert stage(ca, root) is Stage.ACTIVE


async def test_a_stream_that_has_accepted_an_older_bundle_is_waited_for(ca, clock, stack):
    sidecar = Sidecar(ca, stack)
    sidecar.accept()
    root = await ca.authorities.roots.prepare(OPERATOR)
    await ca.authorities.roots.activate(OPERATOR, root.id)
    await passes(clock, ca)
    assert stage(ca, root) is Stage.ACTIVATING


async def test_a_stream_that_has_gone_is_waited_for_no_longer_than_its_client_needs_to_come_back(ca, clock):
    with ExitStack() as stack:
        Sidecar(ca, stack)
        root = await ca.authorities.roots.prepare(OPERATOR)
        await ca.authorities.roots.activate(OPERATOR, root.id)
        await passes(clock, ca)
        assert stage(ca, root) is Stage.ACTIVATING
    await passes(clock, ca, count=58)
    assert stage(ca, root) is Stage.ACTIVATING
    assert (await ca.rollout.acknowledgements(root.id)).behind[0].problem == "it has disconnected"
    await passes(clock, ca, count=4)
    assert stage(ca, root) is Stage.ACTIVE


async def test_a_client_that_comes_back_on_another_stream_is_counted_once(ca, clock, stack):
    with ExitStack() as first:
        Sidecar(ca, first)
        root = await ca.authorities.roots.prepare(OPERATOR)
        await ca.authorities.roots.activate(OPERATOR, root.id)
        await passes(clock, ca)
    again = Sidecar(ca, stack)
    await passes(clock, ca)
    assert (await ca.rollout.acknowledgements(root.id)).behind_count == 1
    again.accept()
    await passes(clock, ca)
    assert stage(ca, root) is Stage.ACTIVE


async def test_streams_of_other_replicas_are_waited_for(replica, clock, stack):
    one, two = replica(), replica()
    await one.start()
    await two.start()
    await passes(clock, one, two)
    sidecar = Sidecar(two, stack)
    root = await one.authorities.roots.prepare(OPERATOR)
    await one.authorities.roots.activate(OPERATOR, root.id)
    await passes(clock, one, two, count=5)
    assert stage(one, root) is Stage.ACTIVATING
    assert [each.node for each in (await one.rollout.acknowledgements(root.id)).behind] == ["sidecar-1"]
    sidecar.accept()
    await passes(clock, two, one)
    await passes(clock, two, one)
    assert stage(one, root) is stage(two, root) is Stage.ACTIVE


async def test_a_replica_that_is_gone_is_waited_for_no_longer_than_until_that_is_clear(replica, clock, stack):
    one, two = replica(), replica()
    await one.start()
    await two.start()
    Sidecar(two, stack)
    await passes(clock, one, two, count=3)
    root = await one.authorities.roots.prepare(OPERATOR)
    await one.authorities.roots.activate(OPERATOR, root.id)
    await passes(clock, one, count=20)
    assert stage(one, root) is Stage.ACTIVATING
    assert len((await one.rollout.acknowledgements(root.id)).replicas) == 1
    await passes(clock, one, count=20)
    assert stage(one, root) is Stage.ACTIVE


async def test_clocks_that_differ_make_no_replica_gone(config, transactions, clock, stack, replica):
    """The other one is there as long as its reports go on, whatever the time is there."""
    one = replica()
    behind = ManualClock(clock.now() - timedelta(minutes=9))
    two = CaService(config, transactions, MemoryKeyStore(), MemoryPublisher(), behind, Metrics())
    await one.start()
    await two.start()
    Sidecar(two, stack)
    root = await one.authorities.roots.prepare(OPERATOR)
    await one.authorities.roots.activate(OPERATOR, root.id)
    for _ in range(90):
        behind.advance(1)
        await two.maintain()
        await passes(clock, one, count=1)
    assert stage(one, root) is Stage.ACTIVATING


async def test_a_replica_is_waited_for_until_it_can_sign_under_the_root(replica, clock):
    one, two = replica(), replica()
    await one.start()
    await two.start()
    await passes(clock, one, two)
    root = await one.authorities.roots.prepare(OPERATOR)
    await one.authorities.roots.activate(OPERATOR, root.id)
    two_id = two.rollout._replicas.id
    await one.maintain()
    assert two_id in (await one.rollout.acknowledgements(root.id)).replicas
    await passes(clock, two, one, count=3)
    assert stage(one, root) is Stage.ACTIVE


async def test_an_identity_that_got_its_bundle_with_a_certificate_is_waited_for_until_it_comes_back(ca, clock):
    await issue(ca, CART)
    clock.advance(60)
    root = await ca.authorities.roots.prepare(OPERATOR)
    await ca.authorities.roots.activate(OPERATOR, root.id)
    await passes(clock, ca, count=6)
    assert (await ca.rollout.acknowledgements(root.id)).identities == (CART,)
    assert stage(ca, root) is Stage.ACTIVATING
    await issue(ca, CART)
    await passes(clock, ca)
    assert stage(ca, root) is Stage.ACTIVE


async def test_an_identity_that_fetches_its_secrets_is_waited_for_and_one_that_holds_a_stream_is_not(ca, clock):
    for spiffe_id, once in ((CART, True), (NEWS, False)):
        await ca.secrets.open(Principal(Credential.SVID, spiffe_id), once=once).svid()
    clock.advance(60)
    root = await ca.authorities.roots.prepare(OPERATOR)
    await ca.authorities.roots.activate(OPERATOR, root.id)
    await passes(clock, ca, count=6)
    assert (await ca.rollout.acknowledgements(root.id)).identities == (CART,)
    assert stage(ca, root) is Stage.ACTIVATING
    await ca.secrets.open(Principal(Credential.SVID, CART), once=True).svid()
    await passes(clock, ca)
    assert stage(ca, root) is Stage.ACTIVE


async def test_an_identity_whose_stream_has_accepted_the_bundle_is_not_waited_for(ca, clock, stack):
    await issue(ca, CART)
    sidecar = Sidecar(ca, stack)
    clock.advance(60)
    root = await ca.authorities.roots.prepare(OPERATOR)
    await ca.authorities.roots.activate(OPERATOR, root.id)
    sidecar.accept()
    await passes(clock, ca)
    assert stage(ca, root) is Stage.ACTIVE


async def test_an_identity_whose_certificate_has_ended_is_not_waited_for(ca, clock):
    await issue(ca, CART)
    clock.advance(DAY)
    root = await ca.authorities.roots.prepare(OPERATOR)
    await ca.authorities.roots.activate(OPERATOR, root.id)
    await passes(clock, ca)
    assert stage(ca, root) is Stage.ACTIVE


@pytest.mark.parametrize(
    ("on_timeout", "expected"), [(OnTimeout.REFUSE, Stage.PREPARED), (OnTimeout.PROCEED, Stage.ACTIVE)]
)
async def test_after_the_time_limit_activation_is_refused_or_goes_on_as_it_is_set(
    replica, clock, stack, transactions, on_timeout, expected
):
    ca = replica(timeout=timedelta(minutes=10), on_timeout=on_timeout)
    await ca.start()
    Sidecar(ca, stack)
    root = await ca.authorities.roots.prepare(OPERATOR)
    await ca.authorities.roots.activate(OPERATOR, root.id)
    clock.advance(597)
    await passes(clock, ca)
    assert stage(ca, root) is Stage.ACTIVATING
    await passes(clock, ca)
    assert stage(ca, root) is expected
    last = transactions.state.audited[-1]
    assert last.action == ("authority.hold_back" if expected is Stage.PREPARED else "authority.activate")
    assert (last.principal, last.credential) == ("spiffe://example.org/meshward/server", "internal")


async def test_by_force_nobody_is_waited_for(ca, clock, stack):
    Sidecar(ca, stack)
    root = await ca.authorities.roots.prepare(OPERATOR)
    await ca.authorities.roots.activate(OPERATOR, root.id, force=True)
    assert stage(ca, root) is Stage.ACTIVE


async def test_a_root_that_is_activating_is_not_activated_twice_and_can_be_discarded(ca, clock, stack):
    Sidecar(ca, stack)
    root = await ca.authorities.roots.prepare(OPERATOR)
    await ca.authorities.roots.activate(OPERATOR, root.id)
    with pytest.raises(PreconditionError, match="activating already"):
        await ca.authorities.roots.activate(OPERATOR, root.id)
    await passes(clock, ca)
    await ca.authorities.roots.revoke(OPERATOR, root.id)
    await passes(clock, ca)
    assert stage(ca, root) is Stage.REVOKED
    with pytest.raises(NotFoundError, match="is not to be activated"):
        await ca.rollout.acknowledgements(root.id)


async def test_the_schedule_prepares_and_activates_a_root_at_shares_of_the_life_of_the_active_one(replica, clock):
    ca = replica(prepare_at=0.5, activate_at=0.75)
    await ca.start()
    first = ca.authorities.status().roots[0]
    life = (first.not_after - first.not_before).total_seconds()
    clock.advance(0.49 * life)
    await passes(clock, ca)
    assert ca.authorities.trust().prepared is None
    clock.advance(0.02 * life)
    await passes(clock, ca)
    second = ca.authorities.trust().prepared
    assert second is not None
    clock.advance(0.22 * life)
    await passes(clock, ca)
    assert stage(ca, second) is Stage.PREPARED
    clock.advance(0.03 * life)
    await passes(clock, ca, count=3)
    assert stage(ca, second) is Stage.ACTIVE
    assert stage(ca, first) is Stage.OLD
    assert len(ca.authorities.bundle().roots) == 2


async def test_two_replicas_on_one_schedule_prepare_one_root(replica, clock):
    one, two = replica(prepare_at=0.5), replica(prepare_at=0.5)
    await one.start()
    await two.start()
    clock.advance(0.6 * 3650 * DAY)
    await passes(clock, one, two, count=3)
    assert len(one.authorities.bundle().roots) == 2
    assert one.authorities.bundle() == two.authorities.bundle()


class LockedKeyStore(MemoryKeyStore):
    """A key store that makes no key while it is locked."""

    locked = False

    async def create(self, algorithm):
        if self.locked:
            raise PreconditionError("the PIN of the token is locked")
        return await super().create(algorithm)


async def test_a_key_store_that_makes_no_key_for_the_next_root_is_reported_until_it_does(config, transactions, clock):
    keys = LockedKeyStore()
    changed = replace(config, rotation=RotationConfig(prepare_at=0.5))
    ca = CaService(changed, transactions, keys, MemoryPublisher(), clock, Metrics())
    await ca.start()
    await ca.maintain()
    assert ca.status().problems == ()
    clock.advance(0.6 * 3650 * DAY)
    await ca.authorities.maintain()
    keys.locked = True
    with capture_logs() as lines:
        await passes(clock, ca, count=3)
    (problem,) = ca.status().problems
    assert "the PIN of the token is locked" in problem
    failed = [line for line in lines if line["event"] == "ca_rotation_failed"]
    assert [line["reason"] for line in failed] == ["the PIN of the token is locked"]
    keys.locked = False
    with capture_logs() as lines:
        await passes(clock, ca)
    assert ca.status().problems == ()
    assert "ca_rotation_recovered" in [line["event"] for line in lines]
    assert ca.authorities.trust().prepared is not None


async def test_another_replica_that_was_first_is_no_problem(replica, clock):
    one, two = replica(prepare_at=0.5), replica(prepare_at=0.5)
    await one.start()
    await two.start()
    clock.advance(0.6 * 3650 * DAY)
    await one.maintain()
    with capture_logs() as lines:
        await two.rollout.maintain()
    assert two.status().problems == ()
    assert "ca_rotation_failed" not in [line["event"] for line in lines]
    assert two.authorities.trust().prepared == one.authorities.trust().prepared


async def test_a_root_is_not_revoked_while_identities_have_no_other_certificate_unless_they_are_banned(ca, clock):
    first = ca.authorities.status().root_id
    for spiffe_id in (CART, NEWS):
        await issue(ca, spiffe_id)
    root = await ca.authorities.roots.prepare(OPERATOR)
    await ca.authorities.roots.activate(OPERATOR, root.id, force=True)
    await ca.authorities.roots.taint(OPERATOR, first)
    await passes(clock, ca)
    with pytest.raises(PreconditionError, match=f"2 identities .*{NEWS}, {CART}"):
        await ca.authorities.roots.revoke(OPERATOR, first)
    await issue(ca, CART)
    with pytest.raises(PreconditionError, match=f"1 identities .*{NEWS}"):
        await ca.authorities.roots.revoke(OPERATOR, first)
    await ca.bans.ban(OPERATOR, str(NEWS), "stolen", None)
    await ca.authorities.roots.revoke(OPERATOR, first)


async def test_a_root_is_revoked_by_force_whoever_has_nothing_else(ca, clock):
    first = ca.authorities.status().root_id
    await issue(ca, CART)
    root = await ca.authorities.roots.prepare(OPERATOR)
    await ca.authorities.roots.activate(OPERATOR, root.id, force=True)
    await ca.authorities.roots.taint(OPERATOR, first)
    await passes(clock, ca)
    await ca.authorities.roots.revoke(OPERATOR, first, force=True)
    assert [each.id for each in ca.authorities.trust().trusted] == [root.id]
