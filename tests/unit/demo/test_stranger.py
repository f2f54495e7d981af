import stat
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from app.demo.stranger import stranger_context, stranger_pem
from app.spiffe.id import SpiffeId

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WEB = SpiffeId.parse("spiffe://example.org/ns/shop/sa/web")


def test_a_strangers_certificate_is_right_but_for_who_signed_it():
    leaf, root = x509.load_pem_x509_certificates(stranger_pem(WEB, NOW))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.UniformResourceIdentifier) == [str(WEB)]
    assert leaf.not_valid_before_utc < NOW < leaf.not_valid_after_utc
    leaf.verify_directly_issued_by(root)
    _, other = x509.load_pem_x509_certificates(stranger_pem(WEB, NOW))
    with pytest.raises(InvalidSignature):
        leaf.verify_directly_issued_by(other)


def test_its_key_is_kept_as_any_other(tmp_path):
    bundle = tmp_path / "bundle.pem"
    pem = stranger_pem(WEB, NOW)
    bundle.write_bytes(pem[pem.index(b"-----BEGIN CERTIFICATE") :])
    file = tmp_path / "stranger.pem"
    stranger_context(pem, file, bundle)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
