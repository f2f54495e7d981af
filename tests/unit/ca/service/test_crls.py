"""Revocation lists: which certificates are on them, when they are signed again, and who serves them."""

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509

from app.ca.backends.memory import MemoryKeyStore
from app.ca.model import Surface
from app.ca.rules import crl as crl_module
from app.ca.service import CaService
from app.ca.service import crls as service_module
from app.core.errors import NotFoundError, ResourceExhaustedError
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Credential, Principal
from app.telemetry.metrics import Metrics
from tests.assets.certificates import proven_id
from tests.assets.csrs import csr
from tests.fakes.ca_store import MemoryPublisher
from tests.fakes.principals import OPERATOR

CART = "spiffe://example.org/ns/shop/sa/cart"
UPPER = "spiffe://example.org/ns/SHOP/sa/cart"
OTHER = "spiffe://example.org/ns/shop-test/sa/cart"
SHOP = "spiffe://example.org/ns/shop/*"
CSR = csr()


async def issue(ca, spiffe_id=CART):
    """Issue an SVID and return its serial number."""
    await ca.issuance.issue(Principal(Credential.SVID, SpiffeId.parse(spiffe_id)), CSR, 0, Surface.ISTIO_CA)
    return (await ca.records.page(None, 1))[0].serial


async def listed(ca):
    """The list of the CA's authority, after a pass: its number, and the reason of each serial number on it."""
    await ca.crls.maintain()
    active = ca.authorities.active()
    crl = x509.load_der_x509_crl(ca.crls.get(active.signer.id).der)
    assert crl.is_signature_valid(active.key.public_key)
    assert crl.issuer == active.certificate.subject
    number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    identifier = crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert identifier.hex() == active.signer.id
    reasons = {
        f"{each.serial_number:032x}": each.extensions.get_extension_for_class(x509.CRLReason).value.reason.name
        for each in crl
    }
    return number, reasons


async def test_an_authority_has_an_empty_list_until_something_is_banned(ca):
    await issue(ca)
    assert await listed(ca) == (1, {})
    assert await listed(ca) == (1, {})


async def test_the_certificates_of_banned_identities_are_on_the_list_and_no_others(ca):
    cart, again, other, upper = [await issue(ca, each) for each in (CART, CART, OTHER, UPPER)]
    await ca.bans.ban(OPERATOR, SHOP, "why", None)
    assert await listed(ca) == (2, {cart: "privilege_withdrawn", again: "privilege_withdrawn"})
    await ca.bans.ban(OPERATOR, UPPER, "why", None)
    assert set((await listed(ca))[1]) == {cart, again, upper}
    await ca.bans.revoke(OPERATOR, other, "lost")
    number, reasons = await listed(ca)
    assert (number, reasons[other]) == (4, "key_compromise")
    for subject in (SHOP, UPPER):
        await ca.bans.unban(OPERATOR, subject)
    await ca.bans.unrevoke(OPERATOR, other)
    assert await listed(ca) == (5, {})


async def test_certificates_and_bans_that_have_ended_leave_the_list(ca, clock):
    cart = await issue(ca)
    await ca.bans.ban(OPERATOR, CART, "why", timedelta(hours=1))
    assert set((await listed(ca))[1]) == {cart}
    clock.advance(3600)
    assert await listed(ca) == (3, {})
    await ca.bans.ban(OPERATOR, CART, "why", None)
    assert set((await listed(ca))[1]) == {cart}
    clock.advance(23 * 3600)
    assert await listed(ca) == (5, {})


async def test_a_list_is_signed_again_at_half_of_its_life_and_is_valid_until_then(ca, clock):
    await ca.crls.maintain()
    stored = ca.crls.get(ca.authorities.active().signer.id)
    crl = x509.load_der_x509_crl(stored.der)
    assert crl.last_update_utc == clock.now() - timedelta(minutes=10)
    assert crl.next_update_utc == clock.now() + timedelta(hours=24)
    clock.advance(12 * 3600 - 1)
    assert (await listed(ca))[0] == 1
    clock.advance(1)
    assert (await listed(ca))[0] == 2
    clock.turn_back(3600)
    assert (await listed(ca))[0] == 3


async def test_each_replica_signs_the_list_of_its_authority_and_serves_both(ca, config, transactions, clock):
    keys = MemoryKeyStore()
    other = CaService(config, transactions, keys, MemoryPublisher(), clock, Metrics())
    await other.start()
    await ca.maintain()
    await other.maintain()
    mine, theirs = (each.authorities.active().signer.id for each in (ca, other))
    assert mine != theirs
    await issue(other, OTHER)
    cart = await issue(ca)
    await other.bans.ban(OPERATOR, "spiffe://example.org/*", "why", None)
    await ca.bans.refresh()
    assert set((await listed(ca))[1]) == {cart}
    assert cart not in (await listed(other))[1]
    await ca.crls.maintain()
    for authority in (mine, theirs):
        assert ca.crls.get(authority) == other.crls.get(authority)


async def test_a_restart_goes_on_with_the_numbers(ca, config, transactions, keys, clock):
    assert (await listed(ca))[0] == 1
    again = CaService(config, transactions, keys, MemoryPublisher(), clock, Metrics())
    await again.start()
    assert (await listed(again))[0] == 2
    await ca.crls.maintain()
    signer = ca.authorities.active().signer.id
    assert ca.crls.get(signer) == again.crls.get(signer)


async def test_the_authority_that_was_replaced_keeps_a_list_while_its_certificates_live(ca, clock):
    first = ca.authorities.active().signer
    third = (first.not_after - first.not_before) / 3
    clock.advance((first.not_after - third - clock.now()).total_seconds() + 1)
    cart = await issue(ca)
    await ca.maintain()
    assert ca.authorities.active().signer != first
    await ca.bans.ban(OPERATOR, CART, "why", None)
    await ca.crls.maintain()
    crl = x509.load_der_x509_crl(ca.crls.get(first.id).der)
    assert [f"{each.serial_number:032x}" for each in crl] == [cart]


async def test_a_list_that_would_be_too_long_stays_as_it_is(ca, monkeypatch):
    for module in (crl_module, service_module):
        monkeypatch.setattr(module, "MAX_CRL_ENTRIES", 1)
    await ca.crls.maintain()
    await issue(ca)
    await issue(ca)
    await ca.bans.ban(OPERATOR, CART, "why", None)
    with pytest.raises(ResourceExhaustedError):
        await ca.crls.maintain()
    assert ca.crls.get(ca.authorities.active().signer.id).number == 1


async def test_there_is_no_list_of_what_is_no_signing_authority(ca):
    await ca.crls.maintain()
    for unknown in (ca.authorities.status().root_id, "", "0" * 40):
        with pytest.raises(NotFoundError):
            ca.crls.get(unknown)


async def test_svids_name_the_list_of_their_authority_if_a_url_is_set(config, transactions, keys, clock):
    configured = replace(config, crl_url="http://mesh.example.org:15014/crl")
    ca = CaService(configured, transactions, keys, MemoryPublisher(), clock, Metrics())
    await ca.start()
    issued = await ca.issuance.issue(Principal(Credential.SVID, SpiffeId.parse(CART)), CSR, 0, Surface.ISTIO_CA)
    leaf = x509.load_pem_x509_certificate(issued.chain[0].encode())
    (point,) = leaf.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    signer = ca.authorities.active().signer.id
    assert [name.value for name in point.full_name] == [f"http://mesh.example.org:15014/crl/{signer}"]
    assert proven_id(issued.chain, ca.authorities.bundle(), clock.now()) == issued.spiffe_id
