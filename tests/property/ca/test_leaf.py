"""A leaf is byte for byte what the builder of `cryptography` makes of the same values, and refused where it refuses."""

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import example, given
from hypothesis import strategies as st

from app.ca.rules.leaf import LeafProfile, UnsignedLeaf
from app.ca.rules.profile import authority_builder
from app.spiffe.id import SpiffeId, TrustDomain
from app.spiffe.keys import key_id
from tests.assets.certificates import purposes, usage

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DOMAIN = TrustDomain("example.org")
SIGNERS: dict[str, tuple[Any, Any]] = {
    "P-256": (ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()),
    "P-384": (ec.generate_private_key(ec.SECP384R1()), hashes.SHA384()),
    "P-521": (ec.generate_private_key(ec.SECP521R1()), hashes.SHA512()),
    "Ed25519": (ed25519.Ed25519PrivateKey.generate(), None),
    "RSA": (rsa.generate_private_key(65_537, 2048), hashes.SHA256()),
}
KEYS = [
    *(ec.generate_private_key(curve()).public_key() for curve in (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)),
    rsa.generate_private_key(65_537, 2048).public_key(),
    ed25519.Ed25519PrivateKey.generate().public_key(),
]
# Around the years in which times are written in another way, and before the first that can be.
TIMES = st.integers(-632_000_000, 253_000_000_000).map(
    lambda seconds: datetime.fromtimestamp(seconds, UTC)
) | st.sampled_from(
    [datetime(year, month, day, 23, 59, 59, tzinfo=UTC) for year, month, day in ((1949, 12, 31), (2049, 12, 31))]
    + [datetime(year, 1, 1, tzinfo=UTC) for year in (1950, 2050)]
)
# Across the bytes and the bounds of an INTEGER.
SERIALS = st.integers(-1, 2**161) | st.sampled_from(
    [2**bits + more for bits in (7, 8, 127, 128, 159) for more in (-1, 0)]
)
SEGMENTS = st.text(alphabet="abz09.-_A", min_size=1, max_size=80).filter(lambda text: text not in {".", ".."})
ADDRESSES = st.ip_addresses().map(lambda address: ip_address(str(address).partition("%")[0]))


def issuer_of(key, algorithm):
    lifetime = NOW - timedelta(days=1), NOW + timedelta(days=1)
    return authority_builder(DOMAIN, key.public_key(), 1, lifetime, None).sign(key, algorithm)


ISSUERS = {name: issuer_of(*signer) for name, signer in SIGNERS.items()}


@st.composite
def profiles(draw):
    path = "/" + "/".join(draw(st.lists(SEGMENTS, min_size=1, max_size=5)))
    not_before = draw(TIMES)
    return LeafProfile(
        spiffe_id=SpiffeId(DOMAIN, path),
        public_key=draw(st.sampled_from(KEYS)),
        serial=draw(SERIALS),
        not_before=not_before,
        not_after=not_before + draw(st.timedeltas(timedelta(seconds=-2), timedelta(days=300))),
        common_name=draw(st.booleans()),
        dns_names=tuple(draw(st.lists(st.text(alphabet="a*.-é", max_size=70), max_size=4))),
        ip_addresses=tuple(draw(st.lists(ADDRESSES, max_size=2))),
        crl_url=draw(st.none() | st.sampled_from(["http://crl.example.org/1", "http://crl.example.org/" + "a" * 200])),
    )


def profile(**changed):
    values = {"not_before": NOW, "not_after": NOW, "serial": 1, "public_key": KEYS[0], **changed}
    return LeafProfile(spiffe_id=SpiffeId(DOMAIN, "/ns/shop/sa/cart"), **values)


def built(wanted, issuer, key, algorithm):
    """The leaf by the library's builder."""
    text = str(wanted.spiffe_id)
    named = wanted.common_name and len(text) <= 64
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(text)]
    names += [x509.DNSName(name) for name in wanted.dns_names]
    names += [x509.IPAddress(address) for address in wanted.ip_addresses]
    encipherment = ["key_encipherment"] if isinstance(wanted.public_key, rsa.RSAPublicKey) else []
    identifier = x509.SubjectKeyIdentifier(key_id(key.public_key()))
    builder = (
        x509.CertificateBuilder()
        .serial_number(wanted.serial)
        .issuer_name(issuer.subject)
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)] if named else []))
        .not_valid_before(wanted.not_before)
        .not_valid_after(wanted.not_after)
        .public_key(wanted.public_key)
        .add_extension(usage("digital_signature", *encipherment), critical=True)
        .add_extension(purposes(ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier(key_id(wanted.public_key)), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
    )
    if wanted.crl_url is not None:
        place = x509.DistributionPoint([x509.UniformResourceIdentifier(wanted.crl_url)], None, None, None)
        builder = builder.add_extension(x509.CRLDistributionPoints([place]), critical=False)
    return builder.sign(key, algorithm)


@given(profiles(), st.sampled_from(sorted(SIGNERS)))
@example(profile(serial=2**159), "P-256")
@example(profile(serial=0), "P-256")
@example(profile(not_before=datetime(1949, 12, 31, 23, 59, 59, tzinfo=UTC)), "P-256")
@example(profile(not_after=NOW - timedelta(seconds=1)), "P-256")
@example(profile(dns_names=("é",)), "P-256")
def test_a_leaf_is_what_the_builder_of_the_library_makes(wanted, signer):
    key, algorithm = SIGNERS[signer]
    try:
        expected = built(wanted, ISSUERS[signer], key, algorithm)
    except ValueError:
        expected = None
    try:
        leaf = UnsignedLeaf(wanted, ISSUERS[signer]).sign(key, algorithm)
    except ValueError:
        assert expected is None
        return
    assert expected is not None
    parsed = x509.load_der_x509_certificate(ssl.PEM_cert_to_DER_cert(leaf.pem))
    assert parsed.tbs_certificate_bytes == expected.tbs_certificate_bytes
    assert parsed.signature_algorithm_oid == expected.signature_algorithm_oid
    assert parsed.fingerprint(hashes.SHA256()).hex() == leaf.fingerprint
    parsed.verify_directly_issued_by(ISSUERS[signer])
    if signer == "RSA":  # its signatures are the same each time
        assert parsed == expected


def test_a_hash_that_no_authority_signs_over_is_refused():
    key, _ = SIGNERS["RSA"]
    with pytest.raises(ValueError, match="sha384"):
        UnsignedLeaf(profile(), ISSUERS["RSA"]).sign(key, hashes.SHA384())
