"""X509-SVIDs: reading certificates, and the one verifier of them.

Clauses are those of the X509-SVID standard, sections 2 to 5, and of the path validation of RFC 5280, section 6.1, for
the features that our own profiles use: a certificate with a critical extension beyond those is refused. The plan; the
numbers stand beside the code.

A certificate (`parse_certificate`):

1. The text is one PEM block of a bounded size, with a well-formed certificate.

A leaf (`read_leaf`, enough where the TLS server has verified the chain):

2. It does not sign: cA is false (X509-SVID 4.1, 5.2).
3. Key usage is present and critical, with digitalSignature and neither keyCertSign nor cRLSign (X509-SVID 4.3, 5.2).
4. Extended key usage, if present, has serverAuth and clientAuth (X509-SVID 4.4).
5. Its key is of an accepted kind.
6. It has exactly one URI name, a SPIFFE ID with a path (X509-SVID 2, 3.1), and its names are critical if the subject
   is empty (RFC 5280, 4.2.1.6).
7. It has no critical extension that is unknown here (RFC 5280, 4.2).

A chain (`verify_svid`), leaf first:

8. It has a leaf, and is not too long. A root at its end is left out (RFC 8446, 4.4.2).
9. The leaf is valid (2 to 7), and of the trust domain.
10. Every certificate above it is a signing certificate that may stand where it stands (X509-SVID 3.2, 4.1, 4.3), and
    has no critical extension that is unknown here (RFC 5280, 4.2).
11. Each is signed by the next, the last by a root (RFC 5280, 6.1.3 (a)(1), (a)(4)).
12. The whole path, root included, is valid now (RFC 5280, 6.1.3 (a)(2)).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from app.core.errors import InvalidInputError
from app.spiffe.id import SCHEME, SpiffeId, TrustDomain
from app.spiffe.keys import accepted_key

# A leaf and the signing certificates between it and a root; ours have one, a deep enterprise hierarchy four.
MAX_CHAIN_LENGTH = 6
# PEM. A leaf with an RSA-8192 key and as many DNS names as an entry may have, each of the full length, is about 27 KB.
MAX_CERTIFICATE_BYTES = 32 * 1024

# The authorities above a leaf, checked recently: the same stand above every leaf that is issued.
AUTHORITIES_CACHE_SIZE = 64

MALFORMED = (
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What the X.509 library raises for input that is not what it claims to be; some kinds have no base in common."""

_NOT_SIGNED = "a certificate of the chain was not signed by the next one (RFC 5280 6.1.3 (a))"
_PEM_BEGIN = "-----BEGIN "
_BOTH_SIDES = frozenset({ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH})
_KNOWN_CRITICAL = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
}

Extension = TypeVar("Extension", bound=x509.ExtensionType)


@dataclass(frozen=True, slots=True)
class WorkloadSvid:
    """An X509-SVID together with its private key, as its owner holds it.

    `chain` is PEM, leaf first, then each intermediate; `private_key` is PEM, PKCS#8, and never shown.
    """

    spiffe_id: SpiffeId
    chain: tuple[str, ...]
    private_key: bytes = field(repr=False)
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class X509Svid:
    """The identity in an X509-SVID and the end of its validity: the leaf's own, or of a chain the earliest.

    `serial` is the serial number of the leaf, at least 32 hexadecimal digits.
    """

    spiffe_id: SpiffeId
    not_after: datetime
    serial: str


def parse_certificate(text: str) -> x509.Certificate:
    """Return the certificate that `text` holds in PEM. Raises InvalidInputError if it is not exactly one (clause 1)."""
    if len(text) > MAX_CERTIFICATE_BYTES:
        raise InvalidInputError(f"the certificate is longer than {MAX_CERTIFICATE_BYTES} bytes")
    if not text.isascii() or text.count(_PEM_BEGIN) != 1:
        raise InvalidInputError("the certificate is not one PEM block of the type CERTIFICATE")
    try:
        return x509.load_pem_x509_certificate(text.encode("ascii"))
    except MALFORMED as error:
        raise InvalidInputError("the certificate is not well-formed") from error


def pem(document: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """Return the PEM form of a certificate or a request."""
    return document.public_bytes(Encoding.PEM).decode("ascii")


def read_leaf(leaf: x509.Certificate) -> X509Svid:
    """Return the identity in a leaf, without checking issuer and period. Raises InvalidInputError with the clause."""
    try:
        _check_usage(leaf)  # 2, 3, 4
        accepted_key(leaf)  # 5
        spiffe_id = _spiffe_id(leaf)  # 6
        _check_critical(leaf)  # 7
    except MALFORMED as error:
        raise InvalidInputError("the certificate is not well-formed") from error
    return X509Svid(spiffe_id, leaf.not_valid_after_utc, f"{leaf.serial_number:032x}")


def verify_svid(
    chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], trust_domain: TrustDomain, now: datetime
) -> X509Svid:
    """Return what the chain (leaf first) proves under `roots` at `now`. Raises InvalidInputError with the clause."""
    if not 1 <= len(chain) <= MAX_CHAIN_LENGTH:  # 8
        raise InvalidInputError(f"a chain has 1 to {MAX_CHAIN_LENGTH} certificates, not {len(chain)}")
    leaf = read_leaf(chain[0])  # 9
    if leaf.spiffe_id.trust_domain != trust_domain:
        raise InvalidInputError(f"the leaf is of the trust domain {leaf.spiffe_id.trust_domain}, not {trust_domain}")
    try:
        above = _authorities_above(chain, tuple(roots), trust_domain)  # 10, 11, 12
        if not _issued_by(chain[0], above.issuer):  # 11
            raise InvalidInputError(_NOT_SIGNED)
        not_after = min(leaf.not_after, above.not_after)
        _check_period(max(chain[0].not_valid_before_utc, above.not_before), not_after, now)  # 12
    except MALFORMED as error:
        raise InvalidInputError("a certificate of the chain is not well-formed") from error
    return replace(leaf, not_after=not_after)


def authority_ids(authority: x509.Certificate) -> tuple[str, ...]:
    """Return the SPIFFE IDs that a signing certificate has: that of its trust domain, or none (X509-SVID 3.2)."""
    names = _extension(authority, x509.SubjectAlternativeName)
    uris = names.value.get_values_for_type(x509.UniformResourceIdentifier) if names else []
    return tuple(uri for uri in uris if uri.startswith(SCHEME))


def check_authority(certificate: x509.Certificate, trust_domain: TrustDomain, issuer: x509.Certificate) -> None:
    """Check an authority of our own under `issuer`, itself for a root (10, 11). Raises InvalidInputError."""
    try:
        _check_signing_certificate(certificate, 0, trust_domain)
        if not _issued_by(certificate, issuer):
            raise InvalidInputError("the signing certificate was not signed by its root")
    except MALFORMED as error:
        raise InvalidInputError("the signing certificate is not well-formed") from error


def authority_life(
    chain: Sequence[x509.Certificate], root: x509.Certificate, trust_domain: TrustDomain
) -> tuple[datetime, datetime]:
    """Return from when to when a signing authority is valid under a root (10, 11).

    The chain is its certificate and those between, its issuer first; the root itself may be the signing authority.
    Raises InvalidInputError with the clause.
    """
    if not 1 <= len(chain) < MAX_CHAIN_LENGTH:
        raise InvalidInputError(f"there are {len(chain)} certificates under a root, not 1 to {MAX_CHAIN_LENGTH - 1}")
    try:
        found = _authorities(_below_root(chain, (root,)), (root,), trust_domain)
    except MALFORMED as error:
        raise InvalidInputError("a certificate of the chain is not well-formed") from error
    return found.not_before, found.not_after


def check_signing_certificate(certificate: x509.Certificate, beneath: int, trust_domain: TrustDomain) -> None:
    """Check a signing certificate with `beneath` others between it and the leaf (10). Raises InvalidInputError."""
    try:
        _check_signing_certificate(certificate, beneath, trust_domain)
    except MALFORMED as error:
        raise InvalidInputError("it is not well-formed") from error


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether `issuer` has signed a certificate, which names it as its issuer (11)."""
    return _issued_by(certificate, issuer)


def _check_usage(leaf: x509.Certificate) -> None:
    constraints = _extension(leaf, x509.BasicConstraints)
    if constraints is not None and constraints.value.ca:
        raise InvalidInputError("the leaf is a signing certificate: cA is true (X509-SVID 5.2)")
    usage = _key_usage(leaf)
    if not usage.digital_signature or usage.key_cert_sign or usage.crl_sign:
        raise InvalidInputError("the leaf's key usage is not digitalSignature without signing (X509-SVID 4.3)")
    extended = _extension(leaf, x509.ExtendedKeyUsage)
    if extended is not None and not _BOTH_SIDES.issubset(extended.value):
        raise InvalidInputError("the leaf's extended key usage lacks serverAuth or clientAuth (X509-SVID 4.4)")


def _spiffe_id(leaf: x509.Certificate) -> SpiffeId:
    names = _extension(leaf, x509.SubjectAlternativeName)
    uris = names.value.get_values_for_type(x509.UniformResourceIdentifier) if names else []
    if names is None or len(uris) != 1:
        raise InvalidInputError(f"the leaf has {len(uris)} URI names, not exactly one (X509-SVID 2)")
    spiffe_id = SpiffeId.parse(uris[0])
    if not spiffe_id.path:
        raise InvalidInputError("the leaf's SPIFFE ID has no path (X509-SVID 3.1)")
    if not names.critical and not list(leaf.subject):
        raise InvalidInputError("the leaf has no subject and its names are not critical (RFC 5280 4.2.1.6)")
    return spiffe_id


@dataclass(frozen=True, slots=True)
class _Authorities:
    """Checked authorities: the issuer of leaves, and the time in which all of them, root included, are valid."""

    issuer: x509.Certificate
    not_before: datetime
    not_after: datetime


def _authorities_above(
    chain: Sequence[x509.Certificate], roots: tuple[x509.Certificate, ...], trust_domain: TrustDomain
) -> _Authorities:
    above = _below_root(chain[1:], roots)
    if not above:
        return _authorities((), (_anchor(chain[0], roots),), trust_domain)
    return _authorities(above, roots, trust_domain)


def _below_root(chain: Sequence[x509.Certificate], roots: tuple[x509.Certificate, ...]) -> tuple[x509.Certificate, ...]:
    """Return a chain without the root that it may have at its end."""
    return tuple(chain[:-1] if chain and chain[-1] in roots else chain)


@lru_cache(maxsize=AUTHORITIES_CACHE_SIZE)
def _authorities(
    intermediates: tuple[x509.Certificate, ...], roots: tuple[x509.Certificate, ...], trust_domain: TrustDomain
) -> _Authorities:
    """Return what was checked, at whatever time: the intermediates, lowest first, and the root above them."""
    for beneath, certificate in enumerate(intermediates):
        _check_signing_certificate(certificate, beneath, trust_domain)  # 10
    for certificate, issuer in pairwise(intermediates):
        if not _issued_by(certificate, issuer):  # 11
            raise InvalidInputError(_NOT_SIGNED)
    root = _anchor(intermediates[-1], roots) if intermediates else roots[0]  # 11
    _check_signing_certificate(root, len(intermediates), trust_domain)  # 10
    path = (*intermediates, root)
    start, end = zip(*((each.not_valid_before_utc, each.not_valid_after_utc) for each in path), strict=True)
    return _Authorities(path[0], max(start), min(end))


def _check_signing_certificate(certificate: x509.Certificate, beneath: int, trust_domain: TrustDomain) -> None:
    constraints = _extension(certificate, x509.BasicConstraints)
    if constraints is None or not constraints.critical or not constraints.value.ca:
        raise InvalidInputError("a certificate above the leaf is not an authority: cA is not true (X509-SVID 4.1)")
    limit = constraints.value.path_length
    if limit is not None and beneath > limit:
        raise InvalidInputError(f"{beneath} authorities stand under one that allows {limit} (RFC 5280 6.1.4 (m))")
    if not _key_usage(certificate).key_cert_sign:
        raise InvalidInputError("a certificate above the leaf may not sign: no keyCertSign (X509-SVID 4.3)")
    if any(spiffe_id != str(trust_domain.id) for spiffe_id in authority_ids(certificate)):
        raise InvalidInputError(f"the signing certificate's SPIFFE ID is not {trust_domain.id} (X509-SVID 3.2)")
    _check_critical(certificate)


def _anchor(certificate: x509.Certificate, roots: tuple[x509.Certificate, ...]) -> x509.Certificate:
    for root in roots:
        if _issued_by(certificate, root):
            return root
    raise InvalidInputError("the chain does not end at a root of the trust bundle (X509-SVID 5.1)")


def _issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)  # compares the names as well
    except MALFORMED:
        return False
    return True


def _check_period(not_before: datetime, not_after: datetime, now: datetime) -> None:
    if now < not_before:
        raise InvalidInputError(f"a certificate is not valid before {not_before.isoformat()}")
    if now > not_after:
        raise InvalidInputError(f"a certificate expired at {not_after.isoformat()}")


def _check_critical(certificate: x509.Certificate) -> None:
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _KNOWN_CRITICAL:
            oid = extension.oid.dotted_string
            raise InvalidInputError(f"the critical extension {oid} is not understood (RFC 5280 4.2)")


def _key_usage(certificate: x509.Certificate) -> x509.KeyUsage:
    usage = _extension(certificate, x509.KeyUsage)
    if usage is None or not usage.critical:
        raise InvalidInputError("a certificate has no critical key usage (X509-SVID 4.3)")
    return usage.value


def _extension(certificate: x509.Certificate, kind: type[Extension]) -> x509.Extension[Extension] | None:
    # By identifier: the library's lookup by class takes four times as long.
    return next((extension for extension in certificate.extensions if extension.oid == kind.oid), None)
