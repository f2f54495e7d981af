"""The life of roots: prepared, activated, tainted, revoked, at one replica and at others."""

from contextlib import asynccontextmanager

import pytest

from app.ca.backends.memory import MemoryKeyStore
from app.ca.model import CaConfig, Stage, Surface
from app.ca.rules.log import fields_of
from app.ca.service import CaService
from app.core.errors import NotFoundError, PreconditionError, UnavailableError
from app.spiffe.id import SpiffeId, TrustDomain
from app.spiffe.principal import Credential, Principal
from app.spiffe.x509_svid import parse_certificate
from app.telemetry.metrics import Metrics
from tests.assets.certificates import proven_id
from tests.assets.csrs import csr
from tests.fakes.ca_store import MemoryPublisher
from tests.fakes.principals import OPERATOR

CART = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
HOLDER = Principal(Credential.SVID, CART)


@pytest.fixture
async def other(ca, transactions, clock):
    """A second replica, with keys of its own."""
    service = CaService(
        CaConfig(TrustDomain("example.org")), transactions, MemoryKeyStore(), MemoryPublisher(), clock, Metrics()
    )
    await service.start()
    await passes(ca, service)
    return service


async def passes(*services):
    """Two passes of each: what one requests, the other answers."""
    for _ in range(2):
        for service in services:
            await service.maintain()


def stages(ca):
    return {each.id: each.stage for each in ca.authorities.status().stages}


async def issue(ca):
    return await ca.issuance.issue(HOLDER, csr(), 0, Surface.ISTIO_CA)


def root_of(ca, issued):
    """The id of the root above an SVID."""
    signer = parse_certificate(issued.chain[1])
    for root in ca.authorities.status().roots:
        if parse_certificate(root.certificate).subject == signer.issuer:
            return root.id
    raise AssertionError("no root has signed it")


async def test_a_prepared_root_is_trusted_and_signs_nothing(ca, other):
    first = ca.authorities.status().root_id
    prepared = await ca.authorities.roots.prepare(OPERATOR)
    await passes(ca, other)
    for service in (ca, other):
        assert stages(service) == {first: Stage.ACTIVE, prepared.id: Stage.PREPARED}
        assert service.authorities.bundle().roots[1] == prepared.certificate
        assert service.authorities.bundle().sequence == 2
        assert root_of(service, await issue(service)) == first


async def test_every_replica_has_a_signing_authority_of_a_prepared_root(ca, other):
    prepared = await ca.authorities.roots.prepare(OPERATOR)
    await passes(ca, other)
    for service in (ca, other):
        assert {each.signer.root_id for each in service.authorities.held()} == {
            service.authorities.status().root_id,
            prepared.id,
        }


async def test_an_activated_root_signs_at_every_replica_and_the_old_one_stays_trusted(ca, other, clock):
    before = await issue(ca)
    first = ca.authorities.status().root_id
    prepared = await ca.authorities.roots.prepare(OPERATOR)
    await passes(ca, other)
    await ca.authorities.roots.activate(OPERATOR, prepared.id, force=True)
    await passes(ca, other)
    for service in (ca, other):
        assert stages(service) == {first: Stage.OLD, prepared.id: Stage.ACTIVE}
        assert service.authorities.status().root_id == prepared.id
        after = await issue(service)
        assert root_of(service, after) == prepared.id
        for issued in (before, after):
            assert proven_id(issued.chain, service.authorities.bundle(), clock.now()) == CART


async def test_a_replica_without_a_signer_of_the_active_root_goes_on_with_its_own_of_the_old_one(ca, other):
    first = ca.authorities.status().root_id
    prepared = await ca.authorities.roots.prepare(OPERATOR)
    await ca.authorities.roots.activate(OPERATOR, prepared.id, force=True)
    await other.maintain()
    assert other.authorities.waiting_for is None
    assert root_of(other, await issue(other)) == first
    await passes(ca, other)
    assert root_of(other, await issue(other)) == prepared.id


async def test_an_old_root_can_be_activated_again(ca):
    first = ca.authorities.status().root_id
    prepared = await ca.authorities.roots.prepare(OPERATOR)
    await ca.authorities.roots.activate(OPERATOR, prepared.id, force=True)
    await ca.authorities.roots.activate(OPERATOR, first)
    assert stages(ca) == {first: Stage.ACTIVE, prepared.id: Stage.OLD}
    assert root_of(ca, await issue(ca)) == first


async def test_a_revoked_root_leaves_the_bundle_and_the_log_stays_verifiable(ca, other):
    first = ca.authorities.status().root_id
    prepared = await ca.authorities.roots.prepare(OPERATOR)
    await passes(ca, other)
    await ca.authorities.roots.activate(OPERATOR, prepared.id, force=True)
    await ca.authorities.roots.taint(OPERATOR, first)
    await passes(ca, other)
    await ca.authorities.roots.revoke(OPERATOR, first)
    await passes(ca, other)
    for service in (ca, other):
        assert service.authorities.bundle().roots == (prepared.certificate,)
        assert service.authorities.waiting_for is None
        await service.check_ready()


async def test_a_root_is_not_revoked_while_the_log_can_be_verified_by_it_alone(ca):
    first = ca.authorities.status().root_id
    await ca.maintain()
    prepared = await ca.authorities.roots.prepare(OPERATOR)
    await ca.authorities.roots.activate(OPERATOR, prepared.id, force=True)
    await ca.authorities.roots.taint(OPERATOR, first)
    with pytest.raises(UnavailableError, match="tree head"):
        await ca.authorities.roots.revoke(OPERATOR, first)
    await ca.maintain()
    await ca.authorities.roots.revoke(OPERATOR, first)


async def test_a_prepared_root_that_is_not_wanted_is_revoked(ca):
    first = ca.authorities.status().root_id
    prepared = await ca.authorities.roots.prepare(OPERATOR)
    await ca.maintain()
    await ca.authorities.roots.revoke(OPERATOR, prepared.id)
    assert stages(ca) == {first: Stage.ACTIVE, prepared.id: Stage.REVOKED}
    assert len(ca.authorities.bundle().roots) == 1


async def test_a_tainted_signing_authority_is_replaced_at_once(ca):
    before = ca.authorities.active().signer
    await ca.authorities.roots.taint(OPERATOR, before.id)
    after = ca.authorities.active().signer
    assert after.id != before.id
    assert after.root_id == before.root_id
    assert ca.authorities.is_withdrawn([before.certificate])
    assert not ca.authorities.is_withdrawn([after.certificate])


@pytest.mark.parametrize("change", ["activate", "taint", "revoke"])
async def test_an_authority_that_does_not_exist_is_not_found(ca, change):
    with pytest.raises(NotFoundError, match="there is no root nothing"):
        await getattr(ca.authorities.roots, change)(OPERATOR, "nothing")


async def test_a_second_root_is_not_prepared_and_leaves_no_key(ca, keys):
    await ca.authorities.roots.prepare(OPERATOR)
    held = set(keys.keys)
    with pytest.raises(PreconditionError, match="prepared already"):
        await ca.authorities.roots.prepare(OPERATOR)
    assert set(keys.keys) == held


async def test_of_two_replicas_that_prepare_at_once_one_is_refused_and_keeps_no_key(ca, other, transactions, keys):
    create = keys.create

    async def create_late(algorithm):
        key = await create(algorithm)
        keys.create = create
        await other.authorities.roots.prepare(OPERATOR)
        return key

    keys.create = create_late
    held = set(keys.keys)
    with pytest.raises(PreconditionError, match="prepared already"):
        await ca.authorities.roots.prepare(OPERATOR)
    await passes(other, ca)
    (signer,) = set(keys.keys) - held
    assert signer in {each.signer.id for each in ca.authorities.held()}
    assert len(ca.authorities.bundle().roots) == 2


class Unanswered:
    """Transactions whose next commit of a root gets no answer, whether it was made or not."""

    def __init__(self, transactions, *, committed):
        self._transactions, self._committed = transactions, committed

    @asynccontextmanager
    async def __call__(self):
        failing = None
        try:
            async with self._transactions() as repository:
                before = len(await repository.roots())
                yield repository
                if len(await repository.roots()) > before:
                    failing = UnavailableError("the database does not answer")
                    self._transactions.away = True
                    if not self._committed:
                        raise failing
        finally:
            if failing is not None and self._committed:
                raise failing


@pytest.mark.parametrize("committed", [False, True])
async def test_the_key_of_a_root_whose_storing_got_no_answer_is_removed_unless_it_is_stored(
    config, transactions, keys, clock, committed
):
    unanswered = Unanswered(transactions, committed=committed)
    ca = CaService(config, transactions, keys, MemoryPublisher(), clock, Metrics())
    await ca.start()
    held = set(keys.keys)
    again = CaService(config, unanswered, keys, MemoryPublisher(), clock, Metrics())
    await again.start()
    with pytest.raises(UnavailableError):
        await again.authorities.roots.prepare(OPERATOR)
    (root,) = set(keys.keys) - held
    transactions.away = False
    await again.authorities.maintain()
    assert (root in keys.keys) == committed
    assert len(again.authorities.bundle().roots) == (2 if committed else 1)


async def test_a_first_root_that_cannot_be_stored_leaves_no_key_behind_however_often_it_is_tried(
    config, transactions, keys, clock
):
    unanswered = Unanswered(transactions, committed=False)
    ca = CaService(config, unanswered, keys, MemoryPublisher(), clock, Metrics())
    for _ in range(3):
        with pytest.raises(UnavailableError):
            await ca.start()
        transactions.away = False
    assert len(keys.keys) == 1
    ca.authorities.roots._transactions = transactions
    await ca.start()
    assert set(keys.keys) == {ca.authorities.status().root_id, ca.authorities.active().signer.id}


async def test_each_change_is_audited_and_in_the_log(ca, transactions):
    first = ca.authorities.status().root_id
    prepared = await ca.authorities.roots.prepare(OPERATOR)
    await ca.authorities.roots.activate(OPERATOR, prepared.id, force=True)
    await ca.authorities.roots.taint(OPERATOR, first)
    await ca.maintain()
    await ca.authorities.roots.revoke(OPERATOR, first)
    actions = [(each.action, each.target) for each in transactions.state.audited]
    assert actions == [
        ("authority.prepare", prepared.id),
        ("authority.activate", prepared.id),
        ("authority.taint", first),
        ("authority.revoke", first),
    ]
    leaves = [fields_of(leaf) for leaf in await ca.log.page(0, 100)]
    changes = [(leaf["id"], leaf["stage"]) for leaf in leaves if leaf["kind"] == "authority"]
    assert changes == [
        (prepared.id, "prepared"),
        (first, "old"),
        (prepared.id, "active"),
        (first, "tainted"),
        (first, "revoked"),
    ]


async def test_a_database_of_a_version_without_stages_has_its_first_root_active(ca, transactions):
    first = ca.authorities.status().root_id
    transactions.state._stages.clear()
    await ca.maintain()
    assert stages(ca) == {first: Stage.ACTIVE}
    prepared = await ca.authorities.roots.prepare(OPERATOR)
    await ca.maintain()
    assert stages(ca) == {first: Stage.ACTIVE, prepared.id: Stage.PREPARED}
    assert set(transactions.state._stages) == {first, prepared.id}


async def test_without_an_active_root_nothing_is_issued_and_another_can_be_prepared(ca, transactions):
    prepared = await ca.authorities.roots.prepare(OPERATOR)
    del transactions.state._stages[ca.authorities.status().root_id]
    await ca.maintain()
    assert "no root of the CA is active" in ca.authorities.waiting_for
    assert ca.authorities.status().root_id is None
    await ca.authorities.roots.activate(OPERATOR, prepared.id, force=True)
    assert ca.authorities.waiting_for is None


async def without_stages(ca, transactions):
    """The CA with a root that is revoked and one that was active, when every row of stages was deleted."""
    first = ca.authorities.status().root_id
    prepared = await ca.authorities.roots.prepare(OPERATOR)
    await ca.authorities.roots.activate(OPERATOR, prepared.id, force=True)
    await ca.authorities.roots.taint(OPERATOR, first)
    await ca.maintain()
    await ca.authorities.roots.revoke(OPERATOR, first)
    transactions.state._stages.clear()


async def test_if_every_stage_was_deleted_no_root_is_active_and_the_bundle_stays(ca, transactions, publisher):
    await without_stages(ca, transactions)
    before, published = ca.authorities.bundle(), len(publisher.published)
    await ca.maintain()
    assert ca.authorities.status().root_id is None
    assert "no root of the CA is active" in ca.authorities.waiting_for
    assert ca.authorities.bundle() == before
    assert len(publisher.published) == published
    third = await ca.authorities.roots.prepare(OPERATOR)
    await ca.authorities.roots.activate(OPERATOR, third.id, force=True)
    assert ca.authorities.bundle().roots == (third.certificate,)


async def test_a_start_without_a_trusted_root_has_no_bundle_until_another_root_is_prepared(
    ca, config, transactions, keys, clock
):
    await without_stages(ca, transactions)
    again = CaService(config, transactions, keys, MemoryPublisher(), clock, Metrics())
    await again.start()
    with pytest.raises(PreconditionError, match="no root of the CA is active"):
        again.authorities.bundle()
    third = await again.authorities.roots.prepare(OPERATOR)
    assert again.authorities.bundle().roots == (third.certificate,)
