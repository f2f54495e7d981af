"""Authorities as rows of the database, whatever somebody wrote there."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.ca.rules.authority import has_certificate, root_of
from app.spiffe.id import TrustDomain
from app.spiffe.x509_svid import pem
from tests.assets.certificates import DOMAIN, root_authority

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIFE = (NOW, NOW + timedelta(days=1))
ROOT = root_authority("root", *LIFE)


def without_a_key(certificate):
    """The certificate with a point that is not on the curve, which the library reads until its key is asked for."""
    point = certificate.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    changed = certificate.public_bytes(Encoding.DER).replace(point, b"\x04" + b"\x01" * 64)
    return pem(x509.load_der_x509_certificate(changed))


@pytest.mark.parametrize("stored", ["", without_a_key(ROOT.certificate)])
def test_a_root_that_cannot_be_read_is_not_the_one_that_is_trusted(stored):
    root = replace(root_of(ROOT.certificate, TrustDomain(DOMAIN), 1, NOW), certificate=stored)
    assert not has_certificate(root, fingerprint(ROOT.certificate))
    assert has_certificate(replace(root, certificate=ROOT.pem), fingerprint(ROOT.certificate))


def fingerprint(certificate):
    return certificate.fingerprint(hashes.SHA256()).hex()
