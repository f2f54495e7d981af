"""Validation of X509-SVIDs: of those just signed, before they leave, and of those that callers present.

X509-SVID standard, sections 2 to 5, and the path validation of RFC 5280, section 6.1, for the features that our own
profiles use: a certificate with a critical extension beyond those is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import TypeVar

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from app.core.errors import InvalidInputError
from app.spiffe.id import SCHEME, SpiffeId, TrustDomain
from app.spiffe.keys import accepted_key
from app.spiffe.malformed import MALFORMED

# A leaf and the signing certificates between it and a root; ours have one, a deep enterprise hierarchy four.
MAX_CHAIN_LENGTH = 6
# A certificate with dozens of DNS names is about 4 KB.
MAX_CERTIFICATE_BYTES = 32 * 1024

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
class VerifiedSvid:
    """What a valid SVID proves. `not_after` is the earliest end on its path."""

    spiffe_id: SpiffeId
    not_after: datetime


def parse_chain(chain: Sequence[str]) -> tuple[x509.Certificate, ...]:
    """Return the certificates of a presented chain, PEM, one each.

    Raises InvalidInputError if there is none, there are too many, or one is too large or not well-formed.
    """
    if not 1 <= len(chain) <= MAX_CHAIN_LENGTH:
        raise InvalidInputError(f"a chain has 1 to {MAX_CHAIN_LENGTH} certificates, not {len(chain)}")
    return tuple(parse_certificate(text) for text in chain)


def parse_certificate(text: str) -> x509.Certificate:
    """Return the certificate that `text` holds in PEM. Raises InvalidInputError if it is too large or malformed."""
    if len(text) > MAX_CERTIFICATE_BYTES or not text.isascii():
        raise InvalidInputError(f"a certificate is PEM of at most {MAX_CERTIFICATE_BYTES} bytes")
    try:
        return x509.load_pem_x509_certificate(text.encode("ascii"))
    except MALFORMED as error:
        raise InvalidInputError("the certificate is not well-formed PEM") from error


def verify_svid(
    chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], trust_domain: TrustDomain, now: datetime
) -> VerifiedSvid:
    """Return what the chain (leaf first) proves under `roots` at `now`.

    Raises InvalidInputError with the clause broken. The plan; the numbers stand beside the code.

    1. There is a leaf, and the chain is not too long.
    2. The leaf is one: cA false, digitalSignature, neither keyCertSign nor cRLSign, critical (X509-SVID 4.1, 4.3, 5.2).
    3. It serves both sides of TLS, if it says what it serves (X509-SVID 4.4).
    4. Exactly one URI SAN, a SPIFFE ID of `trust_domain` with a path; critical without a subject (X509-SVID 2, 3.1).
    5. Every certificate beside it is a signing certificate that may stand where it stands (X509-SVID 3.2, 4.1, 4.3).
    6. Each is signed by the next, the last by a root (RFC 5280, 6.1.3 (a)(1), (a)(4)).
    7. The whole path, root included, is valid at `now` (RFC 5280, 6.1.3 (a)(2)).
    8. No critical extension goes unprocessed (RFC 5280, 6.1.4 (o), 6.1.5 (f)).
    """
    if not 1 <= len(chain) <= MAX_CHAIN_LENGTH:  # 1
        raise InvalidInputError(f"a chain has 1 to {MAX_CHAIN_LENGTH} certificates, not {len(chain)}")
    try:
        return _verify(chain, roots, trust_domain, now)
    except MALFORMED as error:
        raise InvalidInputError("the certificate is not well-formed") from error


def check_authority(certificate: x509.Certificate, trust_domain: TrustDomain, issuer: x509.Certificate) -> None:
    """Check a certificate of our own authority under `issuer` (itself, for a root) before it is used.

    Raises InvalidInputError with the clause broken.
    """
    try:
        _check_signing_certificate(certificate, 0, trust_domain)
        _check_critical(certificate)
        if not _issued_by(certificate, issuer):
            raise InvalidInputError("the signing certificate was not signed by its root")
    except MALFORMED as error:
        raise InvalidInputError("the signing certificate is not well-formed") from error


def _verify(
    chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], trust_domain: TrustDomain, now: datetime
) -> VerifiedSvid:
    leaf, *between = chain
    _check_leaf_usage(leaf)  # 2, 3
    spiffe_id = _leaf_id(leaf, trust_domain)  # 4
    for position, certificate in enumerate(between):  # 5
        _check_signing_certificate(certificate, position, trust_domain)
    path = [*chain, _anchor(chain, roots)]  # 6
    _check_signing_certificate(path[-1], len(between), trust_domain)
    for certificate in path:
        _check_period(certificate, now)  # 7
        _check_critical(certificate)  # 8
    return VerifiedSvid(spiffe_id, min(certificate.not_valid_after_utc for certificate in path))


def _check_leaf_usage(leaf: x509.Certificate) -> None:
    constraints = _extension(leaf, x509.BasicConstraints)
    if constraints is not None and constraints.value.ca:
        raise InvalidInputError("a signing certificate identifies nobody: cA is true (X509-SVID 5.2)")
    usage = _key_usage(leaf)
    if not usage.digital_signature or usage.key_cert_sign or usage.crl_sign:
        raise InvalidInputError("the leaf's key usage is not digitalSignature without signing (X509-SVID 4.3)")
    extended = _extension(leaf, x509.ExtendedKeyUsage)
    if extended is not None and not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH} <= set(
        extended.value
    ):
        raise InvalidInputError("the leaf's extended key usage lacks serverAuth or clientAuth (X509-SVID 4.4)")
    accepted_key(leaf.public_key())


def _leaf_id(leaf: x509.Certificate, trust_domain: TrustDomain) -> SpiffeId:
    names = _extension(leaf, x509.SubjectAlternativeName)
    uris = names.value.get_values_for_type(x509.UniformResourceIdentifier) if names else []
    if names is None or len(uris) != 1:
        raise InvalidInputError(f"the leaf has {len(uris)} URI names, not exactly one (X509-SVID 2)")
    spiffe_id = SpiffeId.parse(uris[0])
    if not spiffe_id.path:
        raise InvalidInputError("the leaf's SPIFFE ID has no path (X509-SVID 3.1)")
    if spiffe_id.trust_domain != trust_domain:
        raise InvalidInputError(f"the leaf is of the trust domain {spiffe_id.trust_domain}, not {trust_domain}")
    if not names.critical and not list(leaf.subject):
        raise InvalidInputError("the leaf has no subject and its names are not critical (X509-SVID 3.1)")
    return spiffe_id


def _check_signing_certificate(certificate: x509.Certificate, beneath: int, trust_domain: TrustDomain) -> None:
    constraints = _extension(certificate, x509.BasicConstraints)
    if constraints is None or not constraints.critical or not constraints.value.ca:
        raise InvalidInputError("a certificate above the leaf is no authority: cA is not true (X509-SVID 4.1)")
    limit = constraints.value.path_length
    if limit is not None and beneath > limit:
        raise InvalidInputError(f"{beneath} authorities stand under one that allows {limit} (RFC 5280 6.1.4 (m))")
    if not _key_usage(certificate).key_cert_sign:
        raise InvalidInputError("a certificate above the leaf may not sign: no keyCertSign (X509-SVID 4.3)")
    names = _extension(certificate, x509.SubjectAlternativeName)
    for uri in names.value.get_values_for_type(x509.UniformResourceIdentifier) if names else ():
        if uri.startswith(SCHEME) and uri != str(trust_domain.id):
            raise InvalidInputError(f"the signing certificate's SPIFFE ID is not {trust_domain.id} (X509-SVID 3.2)")


def _anchor(chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate]) -> x509.Certificate:
    for certificate, issuer in pairwise(chain):
        if not _issued_by(certificate, issuer):
            raise InvalidInputError("a certificate of the chain was not signed by the next one (RFC 5280 6.1.3 (a))")
    for root in roots:
        if _issued_by(chain[-1], root):
            return root
    raise InvalidInputError("the chain does not end at a root of the trust bundle (X509-SVID 5.1)")


def _issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    if certificate.issuer != issuer.subject:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except MALFORMED:
        return False
    return True


def _check_period(certificate: x509.Certificate, now: datetime) -> None:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < start:
        raise InvalidInputError(f"a certificate is not valid before {start.isoformat()}")
    if now > end:
        raise InvalidInputError(f"a certificate expired at {end.isoformat()}")


def _check_critical(certificate: x509.Certificate) -> None:
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _KNOWN_CRITICAL:
            raise InvalidInputError(
                f"the critical extension {extension.oid.dotted_string} is not understood (RFC 5280 6.1.4 (o))"
            )


def _key_usage(certificate: x509.Certificate) -> x509.KeyUsage:
    usage = _extension(certificate, x509.KeyUsage)
    if usage is None or not usage.critical:
        raise InvalidInputError("a certificate has no critical key usage (X509-SVID 4.3)")
    return usage.value


def _extension(certificate: x509.Certificate, kind: type[Extension]) -> x509.Extension[Extension] | None:
    try:
        return certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None
