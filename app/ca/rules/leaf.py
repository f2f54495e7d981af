"""The certificates of workloads, as this CA issues them (X509-SVID, sections 3 and 4; RFC 5280, section 4).

What is the same in every certificate of an issuer is encoded once. `tests/property/ca/test_leaf.py` compares whole
certificates with those that the builder of `cryptography` makes; whatever was signed is verified by `check_leaf`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address
from ssl import DER_cert_to_PEM_cert

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from app.ca.rules import der
from app.ca.rules.profile import MAX_NAME_LENGTH, authority_key_identifier, key_usage
from app.ca.rules.signatures import PrivateKey, SigningHash, signature_of
from app.core.errors import InternalError, InvalidInputError
from app.spiffe.id import SpiffeId
from app.spiffe.keys import KEY_ID_BYTES, SubjectKey, key_id
from app.spiffe.x509_svid import parse_certificate, verify_svid

# RFC 5280, section 4.1.2.2: at most 20 octets.
MAX_SERIAL_BITS = 159
# Issuers that are prepared for: the signing authorities of a replica, old and new.
ISSUERS_CACHE_SIZE = 16

# The tags of names (RFC 5280, section 4.2.1.6).
_DNS_NAME, _URI, _IP_ADDRESS = 2, 6, 7
# The algorithms of signatures, by the hash: ecdsa-with-SHA256, -SHA384 and -SHA512 (RFC 5758, section 3.2),
# id-Ed25519 (RFC 8410, section 3), and sha256WithRSAEncryption (RFC 4055, section 5).
_ED25519 = "ed25519"
_ELLIPTIC = {
    hashes.SHA256.name: bytes.fromhex("300a06082a8648ce3d040302"),
    hashes.SHA384.name: bytes.fromhex("300a06082a8648ce3d040303"),
    hashes.SHA512.name: bytes.fromhex("300a06082a8648ce3d040304"),
    _ED25519: bytes.fromhex("300506032b6570"),
}
_RSA = {hashes.SHA256.name: bytes.fromhex("300d06092a864886f70d01010b0500")}


@dataclass(frozen=True, slots=True)
class LeafProfile:
    """A workload's certificate. `common_name` requests the SPIFFE ID as common name, where it is short enough.

    `crl_url` is where the revocation list of its issuer is (RFC 5280, section 4.2.1.13).
    """

    spiffe_id: SpiffeId
    public_key: SubjectKey
    serial: int
    not_before: datetime
    not_after: datetime
    common_name: bool = False
    dns_names: tuple[str, ...] = ()
    ip_addresses: tuple[IPv4Address | IPv6Address, ...] = ()
    crl_url: str | None = None


@dataclass(frozen=True, slots=True)
class Leaf:
    """A signed leaf: its PEM, and the SHA-256 of its DER in hexadecimal."""

    pem: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class UnsignedLeaf:
    """A leaf under `issuer` before its signature, for a `SigningKey`."""

    profile: LeafProfile
    issuer: x509.Certificate

    def sign(self, private_key: PrivateKey, algorithm: SigningHash, /) -> Leaf:
        """Return the leaf with its signature, by the kind of the key.

        Raises ValueError if a value does not fit into a certificate.
        """
        name = _ED25519 if algorithm is None else algorithm.name
        identifier = (_RSA if isinstance(private_key, rsa.RSAPrivateKey) else _ELLIPTIC).get(name)
        if identifier is None:
            raise ValueError(f"no signature over {name} is known for the key")
        content = _to_be_signed(self.profile, self.issuer, identifier)
        signature = signature_of(private_key, content, algorithm)
        encoded = der.sequence(content, identifier, der.value(der.BIT_STRING, b"\0" + signature))
        return Leaf(DER_cert_to_PEM_cert(encoded), sha256(encoded).hexdigest())


def check_leaf(
    text: str, profile: LeafProfile, above: Sequence[x509.Certificate], root: x509.Certificate, now: datetime
) -> None:
    """Check a signed leaf: read from its PEM, and verified at `now` as a peer would. Raises InternalError.

    `above` are the certificates between leaf and root, the signing one first.
    """
    try:
        verified = verify_svid((parse_certificate(text), *above), (root,), profile.spiffe_id.trust_domain, now)
    except InvalidInputError as error:
        raise InternalError(f"the SVID that was signed is not valid and is held back: {error.message}") from error
    if verified.spiffe_id != profile.spiffe_id:
        raise InternalError("the SVID that was signed has another identity and is held back")


def _to_be_signed(profile: LeafProfile, issuer: x509.Certificate, algorithm: bytes) -> bytes:
    """Return the TBSCertificate (RFC 5280, section 4.1)."""
    if profile.serial.bit_length() > MAX_SERIAL_BITS:
        raise ValueError("the serial number is too long")
    if profile.not_after < profile.not_before:
        raise ValueError("the certificate ends before it begins")
    issuer_name, issuer_key = _issuer(issuer)
    return der.sequence(
        _VERSION_3,
        der.positive(profile.serial),
        algorithm,
        issuer_name,
        der.sequence(der.time(profile.not_before), der.time(profile.not_after)),
        _subject(profile),
        profile.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        der.explicit(3, der.sequence(*_extensions(profile, issuer_key))),
    )


def _extensions(profile: LeafProfile, issuer_key: bytes) -> Iterator[bytes]:
    yield _RSA_USAGES if isinstance(profile.public_key, rsa.RSAPublicKey) else _USAGES
    yield _KEY_IDENTIFIER + key_id(profile.public_key)
    yield issuer_key
    yield der.sequence(_ALTERNATIVE_NAME, der.TRUE, der.value(der.OCTET_STRING, _names(profile)))
    if profile.crl_url is not None:
        yield _distribution_point(profile.crl_url)


@lru_cache(maxsize=ISSUERS_CACHE_SIZE)
def _issuer(issuer: x509.Certificate) -> tuple[bytes, bytes]:
    """Return what leaves have of their issuer: its name, and the extension with its key's identifier."""
    return issuer.subject.public_bytes(), _extension_of(authority_key_identifier(issuer))


def _subject(profile: LeafProfile) -> bytes:
    text = str(profile.spiffe_id)
    if not profile.common_name or len(text) > MAX_NAME_LENGTH:
        return der.sequence()
    attribute = der.sequence(_COMMON_NAME, der.value(der.UTF8_STRING, text.encode()))
    return der.sequence(der.value(der.SET, attribute))


def _names(profile: LeafProfile) -> bytes:
    names = [der.implicit(_URI, str(profile.spiffe_id).encode("ascii"))]
    names += [der.implicit(_DNS_NAME, name.encode("ascii")) for name in profile.dns_names]
    names += [der.implicit(_IP_ADDRESS, address.packed) for address in profile.ip_addresses]
    return der.sequence(*names)


@lru_cache(maxsize=ISSUERS_CACHE_SIZE)
def _distribution_point(url: str) -> bytes:
    place = x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None)
    return _extension_of(x509.CRLDistributionPoints([place]))


def _extension_of(extension: x509.ExtensionType, *, critical: bool = False) -> bytes:
    content = der.value(der.OCTET_STRING, extension.public_bytes())
    return der.sequence(_identifier(extension.oid), der.TRUE if critical else b"", content)


def _identifier(oid: x509.ObjectIdentifier) -> bytes:
    # Those of a leaf's extensions are all 2.5.29.n (id-ce): the bytes 55 1D and n.
    return der.value(der.OBJECT_IDENTIFIER, bytes((0x55, 0x1D, int(oid.dotted_string.removeprefix("2.5.29.")))))


def _usages(*usages: str) -> bytes:
    """Return the extensions by which a leaf may be used on both sides of TLS, and does not sign."""
    extended = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    constraints = x509.BasicConstraints(ca=False, path_length=None)
    return (
        _extension_of(key_usage(*usages), critical=True)
        + _extension_of(extended)
        + _extension_of(constraints, critical=True)
    )


_VERSION_3 = der.explicit(0, der.value(der.INTEGER, b"\2"))
# The attribute type of a common name: 2.5.4.3.
_COMMON_NAME = der.value(der.OBJECT_IDENTIFIER, b"\x55\x04\x03")
# Only an RSA key can encipher another (RFC 8813, section 3; RFC 9295, section 3).
_USAGES, _RSA_USAGES = _usages("digital_signature"), _usages("digital_signature", "key_encipherment")
_ALTERNATIVE_NAME = _identifier(x509.SubjectAlternativeName.oid)
# The extension with a key's identifier, up to that.
_KEY_IDENTIFIER = _extension_of(x509.SubjectKeyIdentifier(bytes(KEY_ID_BYTES)))[:-KEY_ID_BYTES]
