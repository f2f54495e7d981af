"""What an SVID looks like, who gets one, and what is left behind when nobody does."""

from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from app.ca.model import Entry, EntrySpec, Surface
from app.ca.rules.leaf import UnsignedLeaf
from app.ca.service import CaService
from app.ca.service.join_tokens import TOKEN_REFUSED
from app.core.errors import (
    InternalError,
    InvalidInputError,
    PreconditionError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
)
from app.spiffe.attestation import Evidence
from app.spiffe.id import SpiffeId
from app.spiffe.principal import ANONYMOUS, Credential, Principal
from tests.assets.certificates import proven_id
from tests.assets.csrs import csr, csr_for
from tests.assets.openssl_csrs import RSA_8192
from tests.fakes.principals import OPERATOR

CART = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
HOLDER = Principal(Credential.SVID, CART)
DAY = 24 * 3600


async def issue(ca, caller=HOLDER, request=None, ttl_seconds=0):
    return await ca.issuance.issue(caller, request or csr(), ttl_seconds, Surface.ISTIO_CA)


def leaf_of(issued):
    return x509.load_pem_x509_certificate(issued.chain[0].encode())


def extension(certificate, kind):
    return certificate.extensions.get_extension_for_class(kind)


async def test_a_leaf_has_the_profile_that_istio_and_spiffe_agree_on(ca, clock):
    issued = await issue(ca)
    leaf, signer = (x509.load_pem_x509_certificate(text.encode()) for text in issued.chain)
    names = extension(leaf, x509.SubjectAlternativeName)
    assert names.critical
    assert list(names.value) == [x509.UniformResourceIdentifier(str(CART))]
    usage = extension(leaf, x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    assert not usage.value.crl_sign
    assert set(extension(leaf, x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    }
    assert extension(leaf, x509.BasicConstraints).value == x509.BasicConstraints(ca=False, path_length=None)
    assert list(leaf.subject) == []
    assert leaf.serial_number.bit_length() > 64
    assert leaf.not_valid_before_utc == clock.now() - timedelta(minutes=10)
    assert leaf.not_valid_after_utc == clock.now() + timedelta(hours=24)
    leaf.verify_directly_issued_by(signer)
    assert extension(signer, x509.BasicConstraints).value == x509.BasicConstraints(ca=True, path_length=0)


async def test_the_chain_leads_to_the_one_root_of_the_bundle(ca):
    issued = await issue(ca)
    (root,) = (x509.load_pem_x509_certificate(text.encode()) for text in issued.bundle.roots)
    x509.load_pem_x509_certificate(issued.chain[-1].encode()).verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)
    uris = extension(root, x509.SubjectAlternativeName).value.get_values_for_type(x509.UniformResourceIdentifier)
    assert uris == ["spiffe://example.org"]


ACCEPTED = {
    "P-256": csr(),
    "P-384": csr_for(ec.generate_private_key(ec.SECP384R1())),
    "P-521": csr_for(ec.generate_private_key(ec.SECP521R1())),
    "RSA-2048": csr_for(rsa.generate_private_key(65537, 2048)),
    "RSA-4104": csr_for(rsa.generate_private_key(65537, 4104)),
    "RSA-8192": RSA_8192,
    "Ed25519": csr_for(ed25519.Ed25519PrivateKey.generate()),
}


@pytest.mark.parametrize("request_", ACCEPTED.values(), ids=ACCEPTED)
async def test_every_accepted_kind_of_key_is_certified(ca, request_):
    asked = x509.load_pem_x509_csr(request_.encode()).public_key()
    assert leaf_of(await issue(ca, request=request_)).public_key() == asked


@pytest.mark.parametrize("request_", ACCEPTED.values(), ids=ACCEPTED)
async def test_only_an_rsa_key_is_for_key_encipherment(ca, request_):
    leaf = leaf_of(await issue(ca, request=request_))
    usage = extension(leaf, x509.KeyUsage).value
    assert usage.key_encipherment == isinstance(leaf.public_key(), rsa.RSAPublicKey)


async def test_names_in_the_csr_do_not_get_into_the_certificate(ca):
    foreign = [x509.UniformResourceIdentifier("spiffe://example.org/ns/shop/sa/admin"), x509.DNSName("admin.shop")]
    issued = await issue(ca, request=csr(sans=foreign))
    assert list(extension(leaf_of(issued), x509.SubjectAlternativeName).value) == [
        x509.UniformResourceIdentifier(str(CART))
    ]


async def test_a_common_name_in_the_csr_yields_the_identity_as_common_name(ca):
    issued = await issue(ca, request=csr(common_name="whatever"))
    (name,) = leaf_of(issued).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value == str(CART)


async def test_an_identity_too_long_for_a_common_name_stands_in_the_names_alone(ca):
    long = SpiffeId.parse("spiffe://example.org/ns/shop/sa/" + "a" * 60)
    issued = await issue(ca, Principal(Credential.SVID, long), csr(common_name="whatever"))
    assert list(leaf_of(issued).subject) == []
    assert issued.spiffe_id == long


@pytest.mark.parametrize(("asked", "granted"), [(0, DAY), (-5, DAY), (60, 60), (DAY, DAY)])
async def test_the_lifetime_is_what_was_asked_or_the_default(ca, clock, asked, granted):
    assert (await issue(ca, ttl_seconds=asked)).not_after == clock.now() + timedelta(seconds=granted)


@pytest.mark.parametrize("asked", [DAY + 1, 90 * DAY, 2**63 - 1])
async def test_a_lifetime_above_the_maximum_is_refused_and_nothing_recorded(ca, asked):
    with pytest.raises(InvalidInputError, match="maximum"):
        await issue(ca, ttl_seconds=asked)
    assert await ca.records.page(None, 10) == []


async def test_an_svid_ends_with_its_signer_at_the_latest(ca, clock):
    signer_end = ca.authorities.active().signer.not_after
    clock.advance((signer_end - clock.now()).total_seconds() - 60)
    assert (await issue(ca)).not_after == signer_end


async def test_an_entry_sets_lifetime_and_dns_names(ca, clock):
    await ca.entries.create(OPERATOR, EntrySpec(CART, timedelta(seconds=30), ("cart.shop", "cart.shop.svc")))
    issued = await issue(ca)
    names = extension(leaf_of(issued), x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["cart.shop", "cart.shop.svc"]
    assert issued.not_after == clock.now() + timedelta(seconds=30)
    assert (await issue(ca, ttl_seconds=20)).not_after == clock.now() + timedelta(seconds=20)
    assert (await issue(ca, ttl_seconds=40)).not_after == clock.now() + timedelta(seconds=30)


async def test_an_entry_may_allow_a_longer_life_than_any_caller_may_request(ca, clock):
    await ca.entries.create(OPERATOR, EntrySpec(CART, timedelta(days=30)))
    for asked, granted in ((0, 30), (7 * DAY, 7), (60 * DAY, 30)):
        assert (await issue(ca, ttl_seconds=asked)).not_after == clock.now() + timedelta(days=granted)


@pytest.mark.parametrize("name", ["mesh.example.org", "*.example.org"])
async def test_an_entry_with_a_name_of_the_control_plane_grants_no_svid(ca, transactions, clock, name):
    """As after `mesh.server_names` was changed to a name that a workload has had."""
    spec = EntrySpec(CART, None, (name,))
    entry = Entry(CART, None, spec.dns_names, id="e" * 32, version=1, created_at=clock.now(), updated_at=clock.now())
    async with transactions() as repository:
        await repository.add_entry(entry)
    with pytest.raises(PreconditionError, match=rf"entry of {CART}.* mesh\.example\.org is a name"):
        await issue(ca)
    assert await ca.records.page(None, 10) == []


async def test_every_issuance_is_recorded_with_what_identifies_the_certificate(ca, clock):
    issued = await issue(ca)
    (record,) = await ca.records.page(None, 10)
    leaf = leaf_of(issued)
    assert int(record.serial, 16) == leaf.serial_number
    assert record.spiffe_id == CART
    assert record.signer_id == ca.authorities.active().signer.id
    assert (record.not_before, record.not_after) == (leaf.not_valid_before_utc, leaf.not_valid_after_utc)
    assert record.issued_at == clock.now()
    assert record.surface is Surface.ISTIO_CA


async def test_what_cannot_be_recorded_is_not_handed_out(ca, transactions):
    transactions.away = True
    with pytest.raises(UnavailableError):
        await issue(ca)


@pytest.mark.parametrize(
    "caller",
    [
        ANONYMOUS,
        Principal(Credential.LOOPBACK),
        Principal(Credential.NONE, CART),
        Principal(Credential.SVID),
        Principal(Credential.JOIN_TOKEN, CART),
        Principal(Credential.SVID, SpiffeId.parse("spiffe://other.org/ns/shop/sa/cart")),
        Principal(Credential.SVID, SpiffeId.parse("spiffe://example.org")),
        Principal(Credential.SVID, SpiffeId.parse("spiffe://example.org/meshward/server")),
    ],
)
async def test_a_caller_that_proves_no_workload_of_ours_gets_nothing(ca, caller, metrics):
    with pytest.raises(UnauthenticatedError):
        await issue(ca, caller)
    assert await ca.records.page(None, 10) == []
    assert metrics.issuances.value("istio_ca", "unauthenticated") == 1


async def test_issuances_are_counted_by_result(ca, metrics):
    await issue(ca)
    with pytest.raises(InvalidInputError):
        await issue(ca, request="nonsense")
    assert metrics.issuances.value("istio_ca", "issued") == 1
    assert metrics.issuances.value("istio_ca", "invalid") == 1


async def test_a_join_token_is_used_up_by_the_svid_it_yields(ca):
    created = await ca.join_tokens.create(OPERATOR, CART)
    caller = await ca.join_tokens.attest(Evidence(created.secret))
    assert (await issue(ca, caller)).spiffe_id == CART
    with pytest.raises(UnauthenticatedError, match=TOKEN_REFUSED):
        await issue(ca, caller)
    with pytest.raises(UnauthenticatedError, match=TOKEN_REFUSED):
        await ca.join_tokens.attest(Evidence(created.secret))
    (record,) = await ca.records.page(None, 10)
    assert record.token_id == created.token.id


@pytest.mark.parametrize(("request_", "ttl"), [("nonsense", 0), (None, 91 * DAY)])
async def test_a_request_that_is_refused_leaves_the_token_unused(ca, request_, ttl):
    created = await ca.join_tokens.create(OPERATOR, CART)
    caller = await ca.join_tokens.attest(Evidence(created.secret))
    with pytest.raises(InvalidInputError):
        await issue(ca, caller, request_, ttl)
    assert (await issue(ca, caller)).spiffe_id == CART


async def test_a_token_that_expired_between_check_and_use_yields_nothing(ca, clock):
    created = await ca.join_tokens.create(OPERATOR, CART, timedelta(seconds=10))
    caller = await ca.join_tokens.attest(Evidence(created.secret))
    clock.advance(10)
    with pytest.raises(UnauthenticatedError):
        await issue(ca, caller)
    assert await ca.records.page(None, 10) == []


async def test_a_key_made_here_belongs_to_its_certificate_and_is_not_shown(ca):
    svid = await ca.issuance.issue_with_new_key(HOLDER, Surface.SDS)
    key = load_pem_private_key(svid.private_key, None)
    assert leaf_of(svid).public_key() == key.public_key()
    assert "PRIVATE KEY" not in repr(svid)


async def test_the_control_planes_own_certificate_carries_its_names_and_addresses(ca):
    svid = await ca.issuance.issue_serving()
    names = extension(leaf_of(svid), x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "mesh.example.org"]
    assert names.get_values_for_type(x509.IPAddress) == [ip_address("127.0.0.1")]
    assert str(svid.spiffe_id) == "spiffe://example.org/meshward/server"


async def test_a_certificate_that_came_out_as_anothers_is_held_back(ca, monkeypatch):
    def anothers(profile, issuer):
        other = SpiffeId.parse("spiffe://example.org/ns/shop/sa/other")
        return UnsignedLeaf(replace(profile, spiffe_id=other), issuer)

    monkeypatch.setattr("app.ca.service.signing.UnsignedLeaf", anothers)
    with pytest.raises(InternalError, match="held back"):
        await issue(ca)
    assert await ca.records.page(None, 10) == []


async def test_a_clock_before_the_signing_certificate_stops_issuing(ca, clock):
    clock.turn_back(3600)
    with pytest.raises(PreconditionError, match="clock"):
        await issue(ca)
    assert await ca.records.page(None, 10) == []


async def test_an_expired_root_stops_issuing(ca, clock):
    clock.advance(3651 * DAY)
    with pytest.raises(PreconditionError, match="expired"):
        await issue(ca)


async def test_an_issued_chain_proves_its_identity_until_it_expires(ca, clock):
    issued = await issue(ca, ttl_seconds=60)
    assert proven_id(issued.chain, ca.authorities.bundle(), clock.now()) == CART
    clock.advance(61)
    with pytest.raises(InvalidInputError, match="expired"):
        proven_id(issued.chain, ca.authorities.bundle(), clock.now())


@pytest.fixture
def small(config, transactions, keys, publisher, clock, metrics):
    """A CA that issues three SVIDs an hour to an identity."""
    return CaService(replace(config, svids_per_hour=3), transactions, keys, publisher, clock, metrics)


async def test_an_identity_is_issued_so_many_svids_an_hour(small, clock, metrics):
    await small.start()
    for _ in range(2):
        await issue(small)
    await small.issuance.issue_with_new_key(HOLDER, Surface.SDS)
    with pytest.raises(ResourceExhaustedError, match=f"{CART} has been issued its 3 SVIDs an hour") as refusal:
        await issue(small)
    assert refusal.value.retry_seconds == 1200
    with pytest.raises(ResourceExhaustedError):
        await small.issuance.issue_with_new_key(HOLDER, Surface.SDS)
    assert metrics.issuances.value("istio_ca", "over_budget") == 1
    await issue(small, Principal(Credential.SVID, SpiffeId.parse("spiffe://example.org/ns/shop/sa/other")))
    clock.advance(1200)
    await issue(small)
    assert len(await small.records.page(None, 10)) == 5


async def test_what_is_not_issued_is_not_counted_against_the_identity(small, transactions):
    await small.start()
    transactions.away = True
    for _ in range(5):
        with pytest.raises(UnavailableError):
            await issue(small)
    transactions.away = False
    for _ in range(3):
        with pytest.raises(InvalidInputError):
            await issue(small, request="nonsense")
    for _ in range(3):
        await issue(small)


async def test_a_token_is_left_unused_when_its_identity_has_no_budget_left(small, clock):
    await small.start()
    created = await small.join_tokens.create(OPERATOR, CART, timedelta(hours=2))
    for _ in range(3):
        await issue(small)
    caller = await small.join_tokens.attest(Evidence(created.secret))
    with pytest.raises(ResourceExhaustedError):
        await issue(small, caller)
    clock.advance(1200)
    assert (await issue(small, caller)).spiffe_id == CART


async def test_the_control_planes_own_svid_has_no_budget(small):
    await small.start()
    for _ in range(10):
        await small.issuance.issue_serving()
