"""Trust bundles: PEM and the SPIFFE bundle document, read and written."""

import base64
import json
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from app.core.errors import InvalidInputError
from app.spiffe.bundle import (
    MAX_BUNDLE_BYTES,
    MAX_CRLS_BYTES,
    MAX_ROOTS,
    TrustBundle,
    bundle_jwks,
    bundle_pem,
    parse_bundle,
    parse_crls,
)
from app.spiffe.id import TrustDomain
from tests.assets.certificates import HOUR, MeshCa, root_authority
from tests.assets.csrs import csr
from tests.fakes.clock import ManualClock

NOW = ManualClock().now()
ONE, TWO = MeshCa(NOW), MeshCa(NOW)
BUNDLE = TrustBundle(TrustDomain("example.org"), (ONE.roots, TWO.roots), sequence=7)
ROOTS = (ONE.root.certificate, TWO.root.certificate)
X5C = base64.b64encode(ONE.root.certificate.public_bytes(Encoding.DER)).decode()


def document(*keys):
    return json.dumps({"keys": keys})


def x509_key(**changed):
    return {"kty": "EC", "use": "x509-svid", "x5c": [X5C], **changed}


def test_pem_is_read_as_it_was_written():
    assert bundle_pem(BUNDLE) == ONE.roots + TWO.roots
    assert parse_bundle(bundle_pem(BUNDLE)) == ROOTS


def test_a_spiffe_document_is_read_as_it_was_written():
    written = bundle_jwks(BUNDLE)
    assert (written["spiffe_sequence"], written["spiffe_refresh_hint"]) == (7, 300)
    assert parse_bundle(json.dumps(written)) == ROOTS
    assert parse_bundle(" \n" + json.dumps(written, indent=2)) == ROOTS


def test_text_around_pem_is_ignored():
    assert parse_bundle(f"the root of example.org\n{ONE.roots}\n# and the next one\n{TWO.roots}") == ROOTS


def test_keys_of_other_uses_are_ignored():
    text = document({"kty": "EC", "use": "jwt-svid", "kid": "1"}, {"use": "of another day"}, x509_key(kid="a"))
    assert parse_bundle(text) == ROOTS[:1]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "\x00",
        "é",
        "-----BEGIN CERTIFICATE-----",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        csr(),
        ONE.roots + "é",
        ONE.roots + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "{",
        "{}",
        "{" * 100_000,
        '{"keys": null}',
        '{"keys": 7}',
        '{"keys": "x5c"}',
        '{"keys": {"use": "x509-svid"}}',
        '{"keys": [7]}',
        '{"keys": [null]}',
        '{"keys": ["use"]}',
        '{"keys": ' + "[" * 100_000,
        document({}),
        document({"use": "x509-svid"}),
        document(x509_key(x5c=None)),
        document(x509_key(x5c=[])),
        document(x509_key(x5c=X5C)),
        document(x509_key(x5c=[X5C, X5C])),
        document(x509_key(x5c=[7])),
        document(x509_key(x5c=["AAAA"])),
        document(x509_key(x5c=["é"])),
        document(x509_key(x5c=["!" + X5C])),
        document(x509_key(x5c=[ONE.roots])),
        document(x509_key(), x509_key(x5c=["AAAA"])),
    ],
)
def test_a_malformed_bundle_is_refused(text):
    with pytest.raises(InvalidInputError, match="trust bundle holds no well-formed"):
        parse_bundle(text)


@pytest.mark.parametrize("text", [document(), document({"use": "jwt-svid"})])
def test_a_document_without_x509_roots_is_refused(text):
    with pytest.raises(InvalidInputError, match=r"0 X\.509 roots"):
        parse_bundle(text)


def test_a_bundle_has_a_bounded_number_of_roots():
    assert len(parse_bundle(ONE.roots * MAX_ROOTS)) == MAX_ROOTS
    assert len(parse_bundle(document(*[x509_key()] * MAX_ROOTS))) == MAX_ROOTS
    for text in (ONE.roots * (MAX_ROOTS + 1), document(*[x509_key()] * (MAX_ROOTS + 1))):
        with pytest.raises(InvalidInputError, match=r"65 X\.509 roots"):
            parse_bundle(text)


def test_a_bundle_has_a_bounded_size():
    with pytest.raises(InvalidInputError, match="longer than 262144 bytes"):
        parse_bundle(ONE.roots.ljust(MAX_BUNDLE_BYTES + 1))


def test_the_jwk_has_the_key_of_its_certificate():
    root = root_authority("root", NOW, NOW + HOUR)
    (jwk,) = bundle_jwks(TrustBundle(BUNDLE.trust_domain, (root.pem,)))["keys"]
    numbers = root.key.public_key().public_numbers()
    for parameter, number in (("x", numbers.x), ("y", numbers.y)):
        assert base64.urlsafe_b64decode(jwk[parameter] + "=") == number.to_bytes(32, "big")
    assert (jwk["kty"], jwk["crv"], jwk["use"]) == ("EC", "P-256", "x509-svid")
    assert "kid" not in jwk


def test_an_ed25519_root_has_one_too():
    """RFC 8037, section 2."""
    key = ed25519.Ed25519PrivateKey.generate()
    root = root_authority("root", NOW, NOW + HOUR, key=key)
    (jwk,) = bundle_jwks(TrustBundle(BUNDLE.trust_domain, (root.pem,)))["keys"]
    assert (jwk["kty"], jwk["crv"]) == ("OKP", "Ed25519")
    assert base64.urlsafe_b64decode(jwk["x"] + "=") == key.public_key().public_bytes_raw()


@pytest.mark.parametrize(
    ("key", "named"),
    [
        (rsa.generate_private_key(65537, 2048), ("RSA", "n", 256)),
        (ec.generate_private_key(ec.SECP384R1()), ("EC", "x", 48)),
        (ec.generate_private_key(ec.SECP521R1()), ("EC", "y", 66)),
    ],
    ids=["RSA", "P-384", "P-521"],
)
def test_roots_of_every_kind_of_key_have_a_jwk(key, named):
    root = root_authority("root", NOW, NOW + HOUR, key=key)
    (jwk,) = bundle_jwks(TrustBundle(BUNDLE.trust_domain, (root.pem,)))["keys"]
    kind, parameter, size = named
    value = base64.urlsafe_b64decode(jwk[parameter] + "=" * (-len(jwk[parameter]) % 4))
    assert (jwk["kty"], len(value)) == (kind, size)
    numbers = key.public_key().public_numbers()
    assert int.from_bytes(value, "big") == getattr(numbers, parameter)
    assert jwk.get("e", "AQAB") == "AQAB"


def crl(*serials):
    return MeshCa(NOW).signer.crl(*serials, now=NOW, end=NOW + timedelta(hours=1))


def test_revocation_lists_are_read_as_they_were_written_and_change_the_version():
    first, second = crl(1, 2), crl()
    assert parse_crls("") == ()
    assert parse_crls(first + second) == (first, second)
    bundle = MeshCa(NOW).bundle
    versions = [replace(bundle, crls=crls).version for crls in ((), (first,), (second,), (first, second))]
    assert len({bundle.version, *versions}) == 4


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-10],
        lambda text: text + "and more",
        lambda text: text.replace("MI", "??", 1),
        lambda text: text.replace("X509 CRL", "CERTIFICATE"),
        lambda text: text + "é",
        lambda text: text + "\n" * MAX_CRLS_BYTES,
    ],
)
def test_malformed_revocation_lists_are_refused(spoil):
    with pytest.raises(InvalidInputError):
        parse_crls(spoil(crl(7)))
