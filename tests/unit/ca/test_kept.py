"""The authorities that are kept in a file: with the keys of this replica they sign, without the database."""

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509

from app.ca.backends.kept import KeptAuthorities, KeptBans
from app.ca.backends.memory import MemoryKeyStore
from app.ca.model import CaConfig, KnownAuthorities, Surface
from app.ca.service import CaService
from app.core.errors import PreconditionError, UnavailableError
from app.core.last_good import LastGoodFile
from app.spiffe.id import SpiffeId, TrustDomain
from app.spiffe.principal import Credential, Principal
from app.telemetry.metrics import Metrics
from tests.assets.csrs import csr
from tests.fakes.ca_store import MemoryPublisher
from tests.fakes.principals import OPERATOR

HOLDER = Principal(Credential.SVID, SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart"))


@pytest.fixture
def kept(tmp_path):
    return KeptAuthorities(LastGoodFile(tmp_path / "last-good/ca", "ca", "the database"))


@pytest.fixture
def restarted(config, transactions, keys, clock):
    """A replica of the same data directory, whose database is away."""
    transactions.away = True
    return CaService(config, transactions, keys, MemoryPublisher(), clock, Metrics())


async def test_authorities_are_read_as_they_were_kept(ca, kept):
    known = ca.authorities.known()
    await kept.save(known)
    assert await kept.load() == known


async def test_a_replica_without_its_database_has_the_same_bundle_and_signs(ca, config, kept, restarted, clock):
    await kept.save(ca.authorities.known())
    await restarted.authorities.restore(await kept.load())
    assert restarted.authorities.bundle() == ca.authorities.bundle()
    assert restarted.authorities.ready.is_set()
    await restarted.check_ready()
    svid = await restarted.issuance.issue_serving()
    assert svid.spiffe_id == config.trust_domain.server_id
    assert svid.not_after == clock.now() + timedelta(hours=1)
    assert svid.chain[1] == ca.authorities.active().signer.certificate
    x509.load_pem_x509_certificate(svid.chain[0].encode())


async def test_no_other_identity_is_issued_without_a_record(ca, kept, restarted):
    await kept.save(ca.authorities.known())
    await restarted.authorities.restore(await kept.load())
    for refused in (
        restarted.issuance.issue(HOLDER, csr(), 0, Surface.ISTIO_CA),
        restarted.issuance.issue_with_new_key(HOLDER, Surface.SDS),
    ):
        with pytest.raises(UnavailableError):
            await refused


async def test_a_serving_svid_is_recorded_again_once_the_database_is_back(ca, kept, restarted, transactions, clock):
    await kept.save(ca.authorities.known())
    await restarted.authorities.restore(await kept.load())
    transactions.away = False
    svid = await restarted.issuance.issue_serving()
    assert svid.not_after == clock.now() + timedelta(days=1)
    assert [each.spiffe_id for each in await restarted.records.page(None, 10)] == [svid.spiffe_id]


async def test_a_replica_without_the_keys_of_what_is_kept_signs_nothing(config, ca, transactions, clock):
    transactions.away = True
    other = CaService(config, transactions, MemoryKeyStore(), MemoryPublisher(), clock, Metrics())
    await other.authorities.restore(ca.authorities.known())
    assert other.authorities.bundle() == ca.authorities.bundle()
    with pytest.raises(UnavailableError, match="waits for the replica that holds the key of root"):
        await other.issuance.issue_serving()


async def test_what_is_kept_of_another_trust_domain_or_without_a_root_is_refused(ca, transactions, keys, clock):
    other = CaConfig(TrustDomain("other.example"))
    replica = CaService(other, transactions, keys, MemoryPublisher(), clock, Metrics())
    known = ca.authorities.known()
    for refused in (known, KnownAuthorities((), known.signers)):
        with pytest.raises(PreconditionError):
            await replica.authorities.restore(refused)
    with pytest.raises(UnavailableError):
        replica.authorities.bundle()


async def test_a_kept_signer_that_its_root_did_not_sign_is_not_used(ca, restarted, config, transactions, keys, clock):
    """As if somebody had changed the file and its checksum."""
    transactions.away = False
    stranger = CaService(config, type(transactions)(), keys, MemoryPublisher(), clock, Metrics())
    await stranger.start()
    (root,), known = stranger.authorities.known().roots, ca.authorities.known()
    forged = replace(known.roots[0], certificate=root.certificate)
    await restarted.authorities.restore(KnownAuthorities((forged,), known.signers))
    with pytest.raises(UnavailableError, match="waits for"):
        await restarted.issuance.issue_serving()


async def test_bans_are_kept_and_are_active_without_the_database_until_it_is_back(
    ca, transactions, restarted, tmp_path, clock
):
    transactions.away = False
    for subject, lasts in ((str(HOLDER.spiffe_id), None), ("spiffe://example.org/ns/web/*", timedelta(hours=1))):
        await ca.bans.ban(OPERATOR, subject, "stolen key", lasts)
    transactions.away = True
    file = KeptBans(LastGoodFile(tmp_path / "last-good/bans", "bans", "the database"))
    with pytest.raises(UnavailableError):
        restarted.bans.known()
    await file.save(ca.bans.known())
    kept = await file.load()
    assert kept == ca.bans.known()
    restarted.bans.restore(kept)
    assert restarted.bans.refusal("example.org/ns/shop/sa/cart", "")
    assert restarted.bans.refusal("example.org/ns/web/sa/any", "")
    clock.advance(3600)
    assert restarted.bans.refusal("example.org/ns/web/sa/any", "") is None
    transactions.away = False
    await ca.bans.unban(OPERATOR, str(HOLDER.spiffe_id))
    await restarted.bans.refresh()
    assert restarted.bans.refusal("example.org/ns/shop/sa/cart", "") is None
