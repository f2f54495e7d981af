"""Laws: a certificate or a bundle is read as it was written, and anything else is refused as input at fault."""

import json

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.errors import InvalidInputError
from app.spiffe.bundle import TrustBundle, bundle_jwks, bundle_pem, parse_bundle
from app.spiffe.id import TrustDomain
from app.spiffe.x509_svid import parse_certificate, pem, verify_svid
from tests.assets.certificates import CART, DOMAIN, MeshCa, new_key
from tests.assets.csrs import as_pem
from tests.fakes.clock import ManualClock

NOW = ManualClock().now()
CA = MeshCa(NOW)
LEAF = CA.leaf(new_key().public_key(), NOW, dns=("a.b",), ips=("10.0.0.1",))
DER = LEAF.public_bytes(Encoding.DER)
ROOTS = tuple(MeshCa(NOW).root.certificate for _ in range(3))
TRUST_DOMAIN = TrustDomain(DOMAIN)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["use", "x5c", "kty"]), inner),
    max_leaves=10,
)


# The library warns of what it will refuse one day, such as a negative serial number; it is refused or unchanged here.
@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@settings(max_examples=400, deadline=None)
@given(st.integers(0, len(DER) - 1), st.integers(1, 255))
def test_no_byte_of_a_certificate_can_be_changed_unnoticed(position, difference):
    der = bytearray(DER)
    der[position] ^= difference
    try:
        leaf = parse_certificate(as_pem(bytes(der), "CERTIFICATE"))
        verify_svid([leaf, CA.signer.certificate], [CA.root.certificate], TRUST_DOMAIN, NOW)
    except InvalidInputError:
        return
    assert leaf.tbs_certificate_bytes == LEAF.tbs_certificate_bytes


def test_an_unchanged_certificate_is_verified():
    chain = [parse_certificate(pem(LEAF)), CA.signer.certificate]
    assert str(verify_svid(chain, [CA.root.certificate], TRUST_DOMAIN, NOW).spiffe_id) == CART


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=400) | st.binary(max_size=400).map(lambda der: as_pem(der, "CERTIFICATE")))
def test_what_is_no_certificate_is_refused(text):
    for parse in (parse_certificate, parse_bundle):
        with pytest.raises(InvalidInputError):
            parse(text)


@settings(max_examples=300, deadline=None)
@given(json_values | st.fixed_dictionaries({"keys": json_values}))
def test_what_is_no_bundle_document_is_refused(value):
    with pytest.raises(InvalidInputError):
        parse_bundle(json.dumps(value))


@given(st.lists(st.sampled_from(ROOTS), min_size=1, max_size=5), st.integers(0, 2**53))
def test_a_bundle_is_read_as_it_was_written(roots, sequence):
    bundle = TrustBundle(TRUST_DOMAIN, tuple(pem(root) for root in roots), sequence)
    assert parse_bundle(bundle_pem(bundle)) == tuple(roots)
    assert parse_bundle(json.dumps(bundle_jwks(bundle))) == tuple(roots)
