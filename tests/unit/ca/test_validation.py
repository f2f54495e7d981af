"""X509-SVID, sections 2 to 5: every clause that a certificate can break, broken once."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from app.core.errors import InvalidInputError
from app.spiffe.id import TrustDomain
from app.spiffe.x509_svid import check_authority, parse_certificate, parse_chain, verify_svid
from tests.fakes.clock import ManualClock

NOW = ManualClock().now()
DOMAIN = TrustDomain("example.org")
CART = "spiffe://example.org/ns/shop/sa/cart"
ROOT_KEY, SIGNER_KEY, LEAF_KEY, OTHER_KEY = (ec.generate_private_key(ec.SECP256R1()) for _ in range(4))
ROOT_NAME, SIGNER_NAME = (
    x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("test root", "test signer")
)
NOBODY = x509.Name([])
USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)
BOTH_SIDES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


def usage(*names):
    return x509.KeyUsage(**{name: name in names for name in USAGES})


AUTHORITY_EXTENSIONS = [(x509.BasicConstraints(True, 0), True), (usage("key_cert_sign"), True)]


def uris(*texts):
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(text) for text in texts])


def certificate(
    *,
    subject,
    issuer,
    key,
    signing_key,
    extensions,
    not_before=NOW - timedelta(hours=1),
    not_after=NOW + timedelta(hours=1),
):
    builder = (
        x509.CertificateBuilder()
        .serial_number(x509.random_serial_number())
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(signing_key, hashes.SHA256())


def authority(*, subject=SIGNER_NAME, issuer=ROOT_NAME, key=SIGNER_KEY, signing_key=ROOT_KEY, extensions=None, **dates):
    extensions = extensions or AUTHORITY_EXTENSIONS
    return certificate(subject=subject, issuer=issuer, key=key, signing_key=signing_key, extensions=extensions, **dates)


def root(**changes):
    extensions = [(x509.BasicConstraints(True, None), True), (usage("key_cert_sign", "crl_sign"), True)]
    return authority(subject=ROOT_NAME, key=ROOT_KEY, extensions=extensions, **changes)


def leaf(*, key=LEAF_KEY, subject=NOBODY, signing_key=SIGNER_KEY, issuer=SIGNER_NAME, dates=None, **changed):
    """A good leaf, but for the extensions named: None leaves one out."""
    extensions = {
        "constraints": (x509.BasicConstraints(False, None), True),
        "usage": (usage("digital_signature"), True),
        "purposes": (x509.ExtendedKeyUsage(BOTH_SIDES), False),
        "names": (uris(CART), True),
        **changed,
    }
    present = [extension for extension in extensions.values() if extension]
    return certificate(
        subject=subject, issuer=issuer, key=key, signing_key=signing_key, extensions=present, **(dates or {})
    )


def verify(chain, roots=None, now=NOW):
    return verify_svid(chain, roots if roots is not None else [root()], DOMAIN, now)


def test_a_good_chain_proves_its_identity_until_the_first_certificate_ends():
    verified = verify([leaf(), authority(not_after=NOW + timedelta(minutes=5))])
    assert str(verified.spiffe_id) == CART
    assert verified.not_after == NOW + timedelta(minutes=5)


def test_what_the_standard_leaves_open_is_accepted():
    named = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cart")])
    names = x509.SubjectAlternativeName([x509.DNSName("cart.shop"), x509.UniformResourceIdentifier(CART)])
    assert verify([leaf(purposes=None, constraints=None), authority()])
    assert verify([leaf(subject=named, names=(names, False)), authority()])
    assert verify([leaf(usage=(usage("digital_signature", "key_agreement", "key_encipherment"), True)), authority()])


def test_a_root_in_the_chain_is_no_obstacle():
    anchor = root()
    assert verify([leaf(), authority(), anchor], [anchor])


def test_a_leaf_under_the_root_itself_is_accepted():
    assert verify([leaf(signing_key=ROOT_KEY, issuer=ROOT_NAME)])


@pytest.mark.parametrize(
    ("bad", "clause"),
    [
        (leaf(constraints=(x509.BasicConstraints(True, None), True)), "cA is true"),
        (leaf(usage=None), "no critical key usage"),
        (leaf(usage=(usage("digital_signature"), False)), "no critical key usage"),
        (leaf(usage=(usage("key_encipherment"), True)), "digitalSignature"),
        (leaf(usage=(usage("digital_signature", "key_cert_sign"), True)), "digitalSignature"),
        (leaf(usage=(usage("digital_signature", "crl_sign"), True)), "digitalSignature"),
        (leaf(purposes=(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)), "serverAuth"),
        (leaf(purposes=(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)), "clientAuth"),
        (leaf(names=None), "0 URI names"),
        (leaf(names=(x509.SubjectAlternativeName([x509.DNSName("a")]), True)), "0 URI names"),
        (leaf(names=(uris(CART, CART + "2"), True)), "2 URI names"),
        (leaf(names=(uris(CART, "https://example.org"), True)), "2 URI names"),
        (leaf(names=(uris("https://example.org/a"), True)), "must start with"),
        (leaf(names=(uris("spiffe://example.org"), True)), "no path"),
        (leaf(names=(uris("spiffe://example.org/a/../b"), True)), "segment"),
        (leaf(names=(uris("spiffe://other.org/a"), True)), "other.org"),
        (leaf(names=(uris(CART), False)), "not critical"),
        (leaf(key=ec.generate_private_key(ec.SECP521R1())), "curve"),
        (leaf(key=rsa.generate_private_key(65537, 1024)), "1024 bits"),
        (leaf(dates={"not_before": NOW + timedelta(seconds=1)}), "not valid before"),
        (leaf(dates={"not_after": NOW - timedelta(seconds=1)}), "expired"),
        (leaf(extra=(x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)), r"1\.2\.3\.4"),
        (leaf(signing_key=OTHER_KEY), "signed by the next"),
        (leaf(issuer=ROOT_NAME), "signed by the next"),
    ],
)
def test_a_leaf_that_breaks_a_clause_is_refused_with_it(bad, clause):
    with pytest.raises(InvalidInputError, match=clause):
        verify([bad, authority()])


@pytest.mark.parametrize(
    ("bad", "clause"),
    [
        (authority(extensions=[(usage("key_cert_sign"), True)]), "cA is not true"),
        (
            authority(extensions=[(x509.BasicConstraints(False, None), True), (usage("key_cert_sign"), True)]),
            "cA is not",
        ),
        (authority(extensions=[(x509.BasicConstraints(True, 0), False), (usage("key_cert_sign"), True)]), "cA is not"),
        (authority(extensions=[(x509.BasicConstraints(True, 0), True)]), "no critical key usage"),
        (authority(extensions=[(x509.BasicConstraints(True, 0), True), (usage("crl_sign"), True)]), "keyCertSign"),
        (
            authority(
                extensions=[
                    (x509.BasicConstraints(True, 0), True),
                    (usage("key_cert_sign"), True),
                    (uris("spiffe://other.org"), False),
                ]
            ),
            "SPIFFE ID is not",
        ),
        (
            authority(
                extensions=[
                    (x509.BasicConstraints(True, 0), True),
                    (usage("key_cert_sign"), True),
                    (uris("spiffe://example.org/signer"), False),
                ]
            ),
            "SPIFFE ID is not",
        ),
        (
            authority(
                extensions=[
                    (x509.BasicConstraints(True, 0), True),
                    (usage("key_cert_sign"), True),
                    (x509.NameConstraints([x509.DNSName("shop")], None), True),
                ]
            ),
            "not understood",
        ),
        (authority(not_after=NOW - timedelta(seconds=1)), "expired"),
        (authority(not_before=NOW + timedelta(seconds=1)), "not valid before"),
        (authority(signing_key=OTHER_KEY), "root of the trust bundle"),
    ],
)
def test_a_signing_certificate_that_breaks_a_clause_is_refused_with_it(bad, clause):
    with pytest.raises(InvalidInputError, match=clause):
        verify([leaf(), bad])


def test_a_workload_cannot_sign_for_another():
    forged = leaf(key=OTHER_KEY, signing_key=LEAF_KEY, issuer=NOBODY)
    with pytest.raises(InvalidInputError, match="cA is not true"):
        verify([forged, leaf(), authority()])


def test_no_authority_stands_under_one_that_allows_none():
    below = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "below")])
    middle = authority(subject=below, issuer=SIGNER_NAME, key=OTHER_KEY, signing_key=SIGNER_KEY)
    with pytest.raises(InvalidInputError, match="allows 0"):
        verify([leaf(signing_key=OTHER_KEY, issuer=below), middle, authority()])


def test_a_root_of_the_same_name_and_another_key_vouches_for_nothing():
    impostor = certificate(
        subject=ROOT_NAME, issuer=ROOT_NAME, key=OTHER_KEY, signing_key=OTHER_KEY, extensions=AUTHORITY_EXTENSIONS
    )
    with pytest.raises(InvalidInputError, match="trust bundle"):
        verify([leaf(), authority()], [impostor])


def test_a_root_that_allows_no_authority_beneath_it_vouches_for_leaves_alone():
    narrow = authority(subject=ROOT_NAME, key=ROOT_KEY)
    assert verify([leaf(signing_key=ROOT_KEY, issuer=ROOT_NAME)], [narrow])
    with pytest.raises(InvalidInputError, match="allows 0"):
        verify([leaf(), authority()], [narrow])


def test_an_empty_bundle_vouches_for_nothing():
    with pytest.raises(InvalidInputError, match="trust bundle"):
        verify([leaf(), authority()], [])


def test_an_expired_root_vouches_for_nothing():
    with pytest.raises(InvalidInputError, match="expired"):
        verify([leaf(), authority()], [root(not_after=NOW - timedelta(seconds=1))])


@pytest.mark.parametrize("count", [0, 7])
def test_a_chain_of_no_or_too_many_certificates_is_refused(count):
    with pytest.raises(InvalidInputError, match="1 to 6"):
        verify([leaf()] * count)
    with pytest.raises(InvalidInputError, match="1 to 6"):
        parse_chain(["x"] * count)


@pytest.mark.parametrize(
    "text", ["", "nonsense", "é", "a" * 100_000, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_what_is_no_certificate_is_refused(text):
    with pytest.raises(InvalidInputError):
        parse_certificate(text)


def test_an_authority_that_its_root_did_not_sign_is_refused():
    check_authority(authority(), DOMAIN, root())
    with pytest.raises(InvalidInputError, match="not signed by its root"):
        check_authority(authority(signing_key=OTHER_KEY), DOMAIN, root())
