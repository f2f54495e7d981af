"""X509-SVID, sections 2 to 5: every clause that a chain can break, broken once; the table of leaves has the rest."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from app.core.errors import InvalidInputError
from app.spiffe.id import TrustDomain
from app.spiffe.x509_svid import check_authority, read_leaf, verify_svid
from tests.assets.certificates import (
    CA_FALSE,
    CART,
    HOUR,
    Authority,
    named,
    new_key,
    root_authority,
    subject_names,
    usage,
)
from tests.fakes.clock import ManualClock

NOW = ManualClock().now()
MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)
LIFE = (NOW - HOUR, NOW + HOUR)
DOMAIN = TrustDomain("example.org")
ROOT = root_authority("test root", *LIFE)
SIGNER = ROOT.authority("test signer", *LIFE)
LEAF_KEY, OTHER_KEY = new_key(), new_key()
CA = x509.BasicConstraints(ca=True, path_length=0)
NAMES_CUT_OFF = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x30")


def leaf(signer=SIGNER, *, life=LIFE, **changed):
    return signer.leaf(LEAF_KEY.public_key(), *life, **changed)


def authority(issuer=ROOT, *, life=LIFE, **changed):
    """A certificate for the signer's key."""
    return issuer.authority("test signer", *life, key=SIGNER.key, **changed).certificate


def verify(chain, roots=(ROOT.certificate,), now=NOW):
    return verify_svid(chain, roots, DOMAIN, now)


def test_a_good_chain_proves_its_identity_until_the_first_certificate_ends():
    verified = verify([leaf(), authority(life=(NOW - HOUR, NOW + 5 * MINUTE))])
    assert str(verified.spiffe_id) == CART
    assert verified.not_after == NOW + 5 * MINUTE


def test_a_leaf_that_is_read_alone_has_its_own_end():
    assert read_leaf(leaf()).not_after == NOW + HOUR
    assert read_leaf(leaf(life=(NOW - 2 * HOUR, NOW - HOUR))).not_after == NOW - HOUR


def test_a_root_in_the_chain_is_accepted():
    assert verify([leaf(), SIGNER.certificate, ROOT.certificate])


def test_a_leaf_under_the_root_itself_is_accepted():
    assert verify([leaf(ROOT)])


@pytest.mark.parametrize(
    ("bad", "clause"),
    [
        (leaf(uris=("spiffe://other.org/a",)), r"other\.org"),
        (leaf(uris=("spiffe://example.org.evil/a",)), r"example\.org\.evil"),
        (leaf(life=(NOW + SECOND, NOW + HOUR)), "not valid before"),
        (leaf(life=(NOW - HOUR, NOW - SECOND)), "expired"),
        (leaf(Authority(SIGNER.certificate, OTHER_KEY)), "signed by the next"),
        (leaf(Authority(ROOT.certificate, SIGNER.key)), "signed by the next"),
        (leaf(usage=None), "no critical key usage"),
    ],
)
def test_a_leaf_that_breaks_a_clause_is_refused_with_it(bad, clause):
    with pytest.raises(InvalidInputError, match=clause):
        verify([bad, SIGNER.certificate])


@pytest.mark.parametrize(
    ("bad", "clause"),
    [
        (authority(constraints=None), "cA is not true"),
        (authority(constraints=CA_FALSE), "cA is not true"),
        (authority(constraints=(CA, False)), "cA is not true"),
        (authority(usage=None), "no critical key usage"),
        (authority(usage=(usage("key_cert_sign"), False)), "no critical key usage"),
        (authority(usage=(usage("crl_sign"), True)), "keyCertSign"),
        (authority(uris=("spiffe://other.org",)), "SPIFFE ID is not"),
        (authority(uris=("spiffe://example.org/signer",)), "SPIFFE ID is not"),
        (authority(extra=(x509.NameConstraints([x509.DNSName("shop")], None), True)), "not understood"),
        (
            authority(names=(x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x30"), True)),
            "well-formed",
        ),
        (authority(life=(NOW - HOUR, NOW - SECOND)), "expired"),
        (authority(life=(NOW + SECOND, NOW + HOUR)), "not valid before"),
        (authority(Authority(ROOT.certificate, OTHER_KEY)), "root of the trust bundle"),
    ],
)
def test_a_signing_certificate_that_breaks_a_clause_is_refused_with_it(bad, clause):
    with pytest.raises(InvalidInputError, match=clause):
        verify([leaf(), bad])


def test_the_id_of_a_signing_certificate_is_that_of_the_trust_domain():
    assert verify([leaf(), authority(uris=("spiffe://example.org",))])
    assert verify([leaf(), authority(names=(subject_names("https://example.org/ca", dns=("ca.shop",)), False))])


def test_a_workload_cannot_sign_for_another():
    workload = Authority(leaf(), LEAF_KEY)
    with pytest.raises(InvalidInputError, match="cA is not true"):
        verify([leaf(workload), workload.certificate, SIGNER.certificate])


def test_no_authority_stands_under_one_that_allows_none():
    below = SIGNER.authority("below", *LIFE)
    with pytest.raises(InvalidInputError, match="allows 0"):
        verify([leaf(below), below.certificate, SIGNER.certificate])


def test_a_root_of_the_same_name_and_another_key_vouches_for_nothing():
    with pytest.raises(InvalidInputError, match="trust bundle"):
        verify([leaf(), SIGNER.certificate], [root_authority("test root", *LIFE).certificate])


def test_a_root_that_allows_no_authority_beneath_it_vouches_for_leaves_alone():
    narrow = root_authority("test root", *LIFE, path_length=0, key=ROOT.key).certificate
    assert verify([leaf(ROOT)], [narrow])
    with pytest.raises(InvalidInputError, match="allows 0"):
        verify([leaf(), SIGNER.certificate], [narrow])


def test_an_empty_bundle_vouches_for_nothing():
    with pytest.raises(InvalidInputError, match="trust bundle"):
        verify([leaf(), SIGNER.certificate], [])


def test_an_expired_root_vouches_for_nothing():
    expired = root_authority("test root", NOW - HOUR, NOW - SECOND, key=ROOT.key).certificate
    with pytest.raises(InvalidInputError, match="expired"):
        verify([leaf(), SIGNER.certificate], [expired])


@pytest.mark.parametrize("count", [0, 7])
def test_a_chain_of_no_or_too_many_certificates_is_refused(count):
    with pytest.raises(InvalidInputError, match="1 to 6"):
        verify([leaf()] * count)


def test_an_authority_that_its_root_did_not_sign_is_refused():
    check_authority(SIGNER.certificate, DOMAIN, ROOT.certificate)
    with pytest.raises(InvalidInputError, match="not signed by its root"):
        check_authority(authority(Authority(ROOT.certificate, OTHER_KEY)), DOMAIN, ROOT.certificate)


def test_a_workload_is_no_authority():
    with pytest.raises(InvalidInputError, match="cA is not true"):
        check_authority(leaf(ROOT), DOMAIN, ROOT.certificate)


def test_a_chain_of_another_subject_is_refused_though_the_key_fits():
    renamed = Authority(ROOT.authority("another", *LIFE, key=SIGNER.key).certificate, SIGNER.key)
    assert verify([leaf(renamed), renamed.certificate])
    with pytest.raises(InvalidInputError, match="signed by the next"):
        verify([leaf(), renamed.certificate])
    assert renamed.certificate.subject == named("another")
