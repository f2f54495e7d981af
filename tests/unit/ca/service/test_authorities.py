"""Making, keeping, renewing and refusing authorities."""

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509

from app.ca.backends.memory import MemoryKeyStore
from app.ca.model import CaConfig, EntrySpec, KeyAlgorithm, RotationConfig, SigningRequest, Surface
from app.ca.rules.authority import authority_request
from app.ca.rules.profile import authority_id
from app.ca.service import CaService
from app.core.errors import PreconditionError, UnavailableError
from app.spiffe.id import SpiffeId, TrustDomain
from app.spiffe.principal import Credential, Principal
from app.telemetry.metrics import Metrics
from tests.assets.certificates import pem, proven_id
from tests.assets.csrs import csr
from tests.fakes.ca_store import MemoryPublisher
from tests.fakes.clock import ManualClock
from tests.fakes.principals import OPERATOR

CART = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
HOLDER = Principal(Credential.SVID, CART)
DAY = 24 * 3600


def replica(config, transactions, clock, keys=None, publisher=None):
    return CaService(config, transactions, keys or MemoryKeyStore(), publisher or MemoryPublisher(), clock, Metrics())


async def test_before_the_start_nothing_is_issued_and_the_reason_is_told(config, transactions, clock):
    ca = replica(config, transactions, clock)
    assert ca.authorities.waiting_for == "the CA has not started"
    with pytest.raises(UnavailableError, match="has not started"):
        await ca.issuance.issue(HOLDER, csr(), 0, Surface.ISTIO_CA)
    with pytest.raises(UnavailableError):
        ca.authorities.bundle()


async def test_the_first_start_makes_a_root_of_ten_years_and_a_signer_of_one(ca, clock, keys):
    status = ca.authorities.status()
    (root,), (signer,) = status.roots, status.signers
    assert root.not_after == clock.now() + timedelta(days=3650)
    assert signer.not_after == clock.now() + timedelta(days=365)
    assert signer.root_id == root.id
    assert status.signer_id == signer.id
    assert status.root_key_held
    assert set(keys.keys) == {root.id, signer.id}
    assert ca.authorities.ready.is_set()


@pytest.mark.parametrize(("algorithm", "curve"), [(KeyAlgorithm.P256, "secp256r1"), (KeyAlgorithm.P384, "secp384r1")])
async def test_authorities_have_keys_of_the_kind_that_is_set(transactions, clock, algorithm, curve):
    ca = replica(CaConfig(TrustDomain("example.org"), key_algorithm=algorithm), transactions, clock)
    await ca.start()
    root = x509.load_pem_x509_certificate(ca.authorities.bundle().roots[0].encode())
    assert root.public_key().curve.name == curve
    assert ca.authorities.active().key.public_key.curve.name == curve
    assert (await ca.issuance.issue(HOLDER, csr(), 0, Surface.ISTIO_CA)).spiffe_id == HOLDER.spiffe_id


@pytest.mark.parametrize(("set_to", "named"), [(None, "example.org"), ("Beispiel GmbH", "Beispiel GmbH")])
async def test_authorities_are_named_after_the_organization_that_is_set(transactions, clock, set_to, named):
    ca = replica(CaConfig(TrustDomain("example.org"), organization=set_to), transactions, clock)
    await ca.start()
    signer = ca.authorities.active()
    for certificate, title in ((signer.root, "Meshward root"), (signer.certificate, "Meshward signer")):
        (organization, common) = certificate.subject
        assert organization.value == named
        assert common.value.startswith(title)


async def test_the_bundle_is_published_at_start_and_again_only_when_it_changes(ca, publisher):
    await ca.maintain()
    assert publisher.published == [ca.authorities.bundle()]


async def test_a_signer_is_replaced_with_a_new_key_when_a_third_of_its_life_is_left(ca, clock, keys):
    first = ca.authorities.active().signer
    await ca.entries.create(OPERATOR, EntrySpec(CART, timedelta(days=90)))
    issued = await ca.issuance.issue(HOLDER, csr(), 90 * DAY, Surface.ISTIO_CA)
    third = (first.not_after - first.not_before) / 3
    clock.advance((first.not_after - third - clock.now()).total_seconds())
    await ca.maintain()
    assert ca.authorities.active().signer == first
    clock.advance(1)
    await ca.maintain()
    second = ca.authorities.active().signer
    assert second.id != first.id
    assert {first.id, second.id} <= set(keys.keys)
    clock.turn_back(200 * DAY)
    assert proven_id(issued.chain, ca.authorities.bundle(), clock.now()) == HOLDER.spiffe_id


async def test_a_signer_that_ends_with_its_root_is_not_replaced_for_ever(config, transactions, clock):
    ca = replica(replace(config, rotation=RotationConfig(prepare_at=None)), transactions, clock)
    await ca.start()
    root = ca.authorities.status().roots[0]
    for _ in range(12):
        clock.advance(300 * DAY)
        await ca.maintain()
    assert ca.authorities.active().signer.not_after == root.not_after
    count = len(ca.authorities.status().signers)
    clock.advance(20 * DAY)
    await ca.maintain()
    assert len(ca.authorities.status().signers) == count


async def test_a_restart_goes_on_with_the_keys_it_finds(ca, config, transactions, keys, clock):
    again = replica(config, transactions, clock, keys)
    await again.start()
    assert again.authorities.active().signer == ca.authorities.active().signer
    assert again.authorities.bundle() == ca.authorities.bundle()


async def test_another_trust_domain_than_the_databases_is_refused(ca, transactions, keys, clock):
    other = replica(CaConfig(TrustDomain("other.org")), transactions, clock, keys)
    with pytest.raises(PreconditionError, match=r"example\.org, and other\.org is configured"):
        await other.start()


@pytest.mark.parametrize(
    ("seconds", "reason"), [(-3600, "set the clock right"), (3651 * DAY, "root certificate expired")]
)
async def test_outside_the_roots_life_a_replica_starts_and_issues_and_renews_nothing(
    ca, config, transactions, keys, clock, seconds, reason
):
    held = dict(keys.keys)
    clock.turn_forward(seconds)
    again = replica(config, transactions, clock, keys)
    await again.start()
    await again.maintain()
    assert reason in again.authorities.waiting_for
    assert again.authorities.bundle() == ca.authorities.bundle()
    for attempt in (again.check_ready(), again.issuance.issue(HOLDER, csr(), 0, Surface.ISTIO_CA)):
        with pytest.raises(PreconditionError, match=reason):
            await attempt
    assert keys.keys == held
    assert await transactions.state.signing_requests(again.authorities.status().root_id, 10) == []
    clock.turn_back(seconds)
    await again.maintain()
    assert again.authorities.waiting_for is None


async def test_a_signer_of_a_clock_that_was_ahead_does_not_replace_one_that_is_valid(
    ca, config, transactions, keys, clock
):
    first = ca.authorities.active().signer
    clock.turn_forward(250 * DAY)
    ahead = replica(config, transactions, clock, keys)
    await ahead.start()
    second = ahead.authorities.active().signer
    assert second.not_before > first.not_before
    clock.turn_back(250 * DAY)
    started = replica(config, transactions, clock, keys)
    await started.start()
    for service in (ca, ahead, started):
        await service.maintain()
        assert service.authorities.active().signer == first
        assert (await service.issuance.issue(HOLDER, csr(), 0, Surface.ISTIO_CA)).not_after > clock.now()
    assert len(ca.authorities.status().signers) == 2
    clock.advance(250 * DAY)
    assert ahead.authorities.active().signer == second


@pytest.mark.parametrize("minutes", [-9, 9])
async def test_replicas_whose_clocks_differ_by_minutes_accept_each_others_certificates(
    ca, config, transactions, clock, minutes
):
    other_clock = ManualClock(clock.now() + timedelta(minutes=minutes))
    other = replica(config, transactions, other_clock)
    await other.start()
    await ca.maintain()
    await other.maintain()
    assert other.authorities.waiting_for is None
    for service, peers_clock in ((ca, other_clock), (other, clock)):
        issued = await service.issuance.issue(HOLDER, csr(), 0, Surface.ISTIO_CA)
        assert proven_id(issued.chain, issued.bundle, peers_clock.now()) == CART


async def test_without_the_roots_key_a_replica_says_what_it_waits_for(ca, config, transactions, clock):
    two = replica(config, transactions, clock)
    await two.start()
    root = ca.authorities.status().roots[0].id
    assert f"keys/{root}.pem" in two.authorities.waiting_for
    assert not two.authorities.status().root_key_held
    for _ in range(3):
        await two.maintain()
    assert len(await transactions.state.signing_requests(root, 10)) == 1


async def test_the_roots_key_put_into_the_data_directory_ends_the_wait(ca, config, transactions, keys, clock):
    restored = MemoryKeyStore()
    two = replica(config, transactions, clock, restored)
    await two.start()
    root = ca.authorities.status().roots[0].id
    restored.keys[root] = keys.keys[root]
    await two.maintain()
    assert two.authorities.waiting_for is None


@pytest.mark.parametrize("request_", ["nonsense", csr()], ids=["not a CSR", "of another key"])
async def test_a_signing_request_that_is_not_an_authoritys_is_removed_and_not_signed(ca, transactions, clock, request_):
    root = ca.authorities.status().roots[0].id
    async with transactions() as repository:
        await repository.add_signing_request(SigningRequest("e" * 40, root, request_, clock.now()))
    await ca.maintain()
    async with transactions() as repository:
        assert await repository.signing_requests(root, 10) == []
        assert len(await repository.signers(root, clock.now())) == 1


async def test_a_bad_request_does_not_keep_a_good_one_waiting(ca, transactions, clock):
    root = ca.authorities.status().roots[0].id
    key = await MemoryKeyStore().create(KeyAlgorithm.P256)
    csr_ = await key.sign(authority_request())
    good = SigningRequest(authority_id(key.public_key), root, pem(csr_), clock.now())
    async with transactions() as repository:
        await repository.add_signing_request(SigningRequest("e" * 40, root, "nonsense", clock.now()))
        await repository.add_signing_request(good)
    await ca.maintain()
    assert good.id in {signer.id for signer in ca.authorities.status().signers}


async def test_a_replica_whose_clock_is_years_behind_makes_one_request_and_another_once_it_is_right(
    config, transactions, clock
):
    old = replica(config, transactions, clock)
    await old.start()
    clock.advance(400 * DAY)
    await old.maintain()
    behind, keys = ManualClock(), MemoryKeyStore()
    other = replica(config, transactions, behind, keys)
    for _ in range(3):
        await other.maintain()
        await old.maintain()
    assert len(keys.keys) == 1
    assert other.authorities.waiting_for is not None
    behind.advance(400 * DAY)
    await other.maintain()
    await old.maintain()
    await other.maintain()
    assert other.authorities.waiting_for is None
    assert len(keys.keys) == 2


async def test_a_lost_race_leaves_no_key_behind(config, transactions, clock):
    """Between reading that there is no root and storing one, another replica stores its own."""
    other = replica(config, transactions, clock)
    keys = MemoryKeyStore()
    create = keys.create

    async def create_late(algorithm):
        key = await create(algorithm)
        if not other.authorities.ready.is_set():
            await other.start()
        return key

    keys.create = create_late
    ca = replica(config, transactions, clock, keys)
    await ca.start()
    assert ca.authorities.bundle() == other.authorities.bundle()
    (request,) = await transactions.state.signing_requests(ca.authorities.status().roots[0].id, 10)
    assert set(keys.keys) == {request.id}


async def test_a_database_that_goes_away_keeps_no_root_key_from_its_certificate(config, transactions, clock):
    """Whether the certificate was stored is not known then, so its key stays."""
    keys = MemoryKeyStore()
    create = keys.create

    async def create_and_lose_the_database(algorithm):
        transactions.away = True
        return await create(algorithm)

    keys.create = create_and_lose_the_database
    with pytest.raises(UnavailableError):
        await replica(config, transactions, clock, keys).start()
    assert len(keys.keys) == 1


async def test_keys_do_not_pile_up_while_the_database_takes_no_requests(config, transactions, clock):
    holder = replica(config, transactions, clock)
    await holder.start()
    keys = MemoryKeyStore()
    other = replica(config, transactions, clock, keys)
    transactions.state.add_signing_request = refuse
    for _ in range(3):
        with pytest.raises(UnavailableError):
            await other.maintain()
    assert keys.keys == {}


async def refuse(_request):
    raise UnavailableError("the database takes no writes")


async def test_a_key_that_cannot_sign_is_not_kept(config, transactions, clock):
    class BrokenKeyStore(MemoryKeyStore):
        async def create(self, algorithm):
            key = await super().create(algorithm)

            class Broken:
                public_key = key.public_key

                async def sign(self, document):
                    raise UnavailableError("the token is away")

            return Broken()

    keys = BrokenKeyStore()
    ca = replica(config, transactions, clock, keys)
    with pytest.raises(UnavailableError, match="token is away"):
        await ca.start()
    assert keys.keys == {}
