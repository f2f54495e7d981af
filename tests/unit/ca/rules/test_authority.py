"""Authorities as rows of the database: which ids a chain has, also where rows were changed."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.ca.model import Signer
from app.ca.rules.authority import chain_includes, has_certificate, root_of
from app.ca.rules.profile import authority_id
from app.spiffe.id import TrustDomain
from app.spiffe.x509_svid import pem
from tests.assets.certificates import DOMAIN, root_authority

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIFE = (NOW, NOW + timedelta(days=1))
ROOT = root_authority("root", *LIFE)
UPPER = ROOT.authority("upper", *LIFE, path_length=1)
LOWER = UPPER.authority("lower", *LIFE)


def id_of(authority):
    return authority_id(authority.key.public_key())


def without_a_key(certificate):
    """The certificate with a point that is not on the curve, which the library reads until its key is asked for."""
    point = certificate.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    changed = certificate.public_bytes(Encoding.DER).replace(point, b"\x04" + b"\x01" * 64)
    return pem(x509.load_der_x509_certificate(changed))


def signer(*intermediates):
    return Signer(id_of(LOWER), id_of(ROOT), LOWER.pem, *LIFE, intermediates)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [({id_of(LOWER)}, True), ({id_of(UPPER)}, True), ({id_of(ROOT)}, False), ({"", "x"}, False), (set(), False)],
)
def test_a_chain_includes_the_signing_authority_and_those_between_it_and_the_root(ids, expected):
    assert chain_includes(signer(UPPER.pem), ids) is expected


@pytest.mark.parametrize("stored", ["", "x", UPPER.pem * 2, without_a_key(UPPER.certificate)])
def test_a_certificate_that_cannot_be_read_is_passed_over(stored):
    assert chain_includes(signer(stored, UPPER.pem), {id_of(UPPER)})
    assert not chain_includes(signer(stored), {id_of(UPPER)})


@pytest.mark.parametrize("stored", ["", without_a_key(ROOT.certificate)])
def test_a_root_that_cannot_be_read_is_not_the_one_that_is_trusted(stored):
    root = replace(root_of(ROOT.certificate, TrustDomain(DOMAIN), 1, NOW), certificate=stored)
    assert not has_certificate(root, fingerprint(ROOT.certificate))
    assert has_certificate(replace(root, certificate=ROOT.pem), fingerprint(ROOT.certificate))


def fingerprint(certificate):
    return certificate.fingerprint(hashes.SHA256()).hex()
