"""Authorities from outside: a signing certificate that others issued, checked up to a root before anything is signed.

What is checked, of each certificate from the signing one up to its root:

1. A path leads from the signing certificate over the others to a root, and is not too long.
2. The key is of an accepted kind, and the signature on it is no weaker than SHA-256.
3. It is an authority that may stand where it stands (the X509-SVID verifier, clause 10).
4. It has no name constraints, which the TLS of the mesh port refuses, and no purposes that leave one side of TLS out.
5. It is valid now.

Every other root must be one (2, 3, 4) too; one that is over is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from app.ca.model import Origin, Root, Signer
from app.ca.rules.authority import root_of
from app.ca.rules.profile import authority_id
from app.core.errors import InvalidInputError
from app.core.printable import printable
from app.spiffe.bundle import MAX_ROOTS
from app.spiffe.id import TrustDomain
from app.spiffe.keys import accepted_key
from app.spiffe.x509_svid import (
    MALFORMED,
    MAX_CHAIN_LENGTH,
    authority_life,
    check_signing_certificate,
    is_issued_by,
    pem,
)

# Of a subject, in a message.
MAX_SHOWN_NAME = 80
# A root's generation until it is stored.
UNKNOWN_GENERATION = 0

_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_BOTH_SIDES = frozenset({ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH})
_AGAIN = "issue it again with basicConstraints CA:TRUE and keyUsage keyCertSign, cRLSign, both critical"


@dataclass(frozen=True, slots=True)
class Found:
    """A certificate, and where it was found, such as a file. Raises InvalidInputError if its names cannot be read."""

    certificate: x509.Certificate
    place: str

    def __post_init__(self) -> None:
        try:
            str((self.certificate.subject, self.certificate.issuer))
        except ValueError as error:  # a certificate is read, and its names are not until they are looked at
            raise InvalidInputError(f"{self.place}: a certificate has a name that cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class ExternalAuthority:
    """A signing authority from outside that has been checked: the root above it, and others that are to be trusted."""

    signer: Signer
    anchor: Root
    others: tuple[Root, ...]

    @property
    def roots(self) -> tuple[Root, ...]:
        """Every root that is to be trusted."""
        return (self.anchor, *self.others)


def read_external(
    origin: Origin,
    chain: Sequence[Found],
    roots: Sequence[Found],
    trust_domain: TrustDomain,
    now: datetime,
) -> ExternalAuthority:
    """Return the authority whose signing certificate is the first of `chain`, with what may be above it in any order.

    Raises InvalidInputError with the place, what is wrong there, and what to do.
    """
    if not 1 <= len(roots) <= MAX_ROOTS:
        raise InvalidInputError(f"there are {len(roots)} roots, not 1 to {MAX_ROOTS}: leave out those not in use")
    path = _path_to_root(chain, roots)  # 1
    for beneath, each in enumerate(path):
        _check(each, beneath, trust_domain, is_root=each is path[-1])  # 2, 3, 4
        _check_period(each, now)  # 5
    below = path[:-1] or path
    life = authority_life([each.certificate for each in below], path[-1].certificate, trust_domain)
    anchor = _root(path[-1], origin, trust_domain, now)
    signing = path[0].certificate
    signer = Signer(
        id=authority_id(accepted_key(signing)),
        root_id=anchor.id,
        certificate=pem(signing),
        not_before=life[0],
        not_after=life[1],
        intermediates=tuple(pem(each.certificate) for each in path[1:-1]),
    )
    others = others_of(roots, origin, trust_domain, now)
    return ExternalAuthority(signer, anchor, tuple(each for each in others if each.id != anchor.id))


def others_of(roots: Sequence[Found], origin: Origin, trust_domain: TrustDomain, now: datetime) -> tuple[Root, ...]:
    """Return the roots that are not over, each once, as yet without a generation. Raises InvalidInputError."""
    others: dict[str, Root] = {}
    for found in roots:
        if now <= found.certificate.not_valid_after_utc:
            _check(found, 0, trust_domain, is_root=True)
            root = _root(found, origin, trust_domain, now)
            others[root.id] = root
    return tuple(others.values())


def shown(certificate: x509.Certificate) -> str:
    """Return the subject of a certificate as messages name it."""
    return _shown_name(certificate.subject)


def _path_to_root(chain: Sequence[Found], roots: Sequence[Found]) -> list[Found]:
    """Return the signing certificate, those above it, and the root, which is the signing one itself if that is a root.

    Names that fit are tried before signatures, shorter paths before longer ones.
    """
    signing = chain[0]
    paths: list[list[Found]] = [[signing]]
    for root in roots:
        if root.certificate == signing.certificate:
            return [root]
    while paths:
        longer = []
        for path in paths:
            last = path[-1].certificate
            for root in roots:
                if is_issued_by(last, root.certificate):
                    return [*path, root]
            above = [
                each
                for each in chain
                if all(each.certificate != used.certificate for used in path) and is_issued_by(last, each.certificate)
            ]
            # The leaf and the root come to it.
            longer += [[*path, each] for each in above if len(path) < MAX_CHAIN_LENGTH - 1]
        paths = longer[:MAX_ROOTS]
    issuer = _shown_name(signing.certificate.issuer)
    raise InvalidInputError(
        f"{signing.place}: no root vouches for {shown(signing.certificate)}, whose issuer is {issuer}: put its root "
        f"into {roots[0].place}, and what is between them into the chain, {MAX_CHAIN_LENGTH - 1} certificates at most"
    )


def _check(found: Found, beneath: int, trust_domain: TrustDomain, *, is_root: bool) -> None:
    certificate = found.certificate
    try:
        accepted_key(certificate)
    except InvalidInputError as error:
        raise _refused(found, f"{error.message}", "issue it for another key") from error
    except MALFORMED as error:
        raise _refused(found, "its key is not well-formed", "issue it again") from error
    if certificate.subject.public_bytes() not in certificate.tbs_certificate_bytes:
        problem = "the encoding of its name is not one that leaves can repeat"
        raise _refused(found, problem, "issue it with names in UTF8String or PrintableString")
    if not is_root and not _is_signed_strongly(certificate):
        raise _refused(found, "it is signed over a hash that TLS refuses", "issue it again with SHA-256")
    try:
        check_signing_certificate(certificate, beneath, trust_domain)
    except InvalidInputError as error:
        raise _refused(found, error.message, _AGAIN) from error
    for extension in certificate.extensions:
        if extension.oid == ExtensionOID.NAME_CONSTRAINTS:
            problem = "it has name constraints, under which TLS refuses every URI name"
            raise _refused(found, problem, "issue it without them")
        if isinstance(extension.value, x509.ExtendedKeyUsage) and not _BOTH_SIDES.issubset(extension.value):
            problem = "its extended key usage lacks serverAuth or clientAuth"
            raise _refused(found, problem, "issue it with both or without the extension")


def _is_signed_strongly(certificate: x509.Certificate) -> bool:
    try:
        algorithm = certificate.signature_hash_algorithm
    except MALFORMED:
        return False
    return algorithm is None or isinstance(algorithm, _HASHES)  # None is Ed25519


def _check_period(found: Found, now: datetime) -> None:
    start, end = found.certificate.not_valid_before_utc, found.certificate.not_valid_after_utc
    if now < start:
        raise _refused(found, f"it is not valid before {start.isoformat()}", "check the clock, or wait")
    if now > end:
        raise _refused(found, f"it expired at {end.isoformat()}", "issue it again")


def _root(found: Found, origin: Origin, trust_domain: TrustDomain, now: datetime) -> Root:
    try:
        return root_of(found.certificate, trust_domain, UNKNOWN_GENERATION, now, origin)
    except InvalidInputError as error:
        problem = "it is not self-signed, as a root is"
        raise _refused(found, problem, "put the root of the chain there, and this one into the chain") from error


def _refused(found: Found, problem: str, remedy: str) -> InvalidInputError:
    return InvalidInputError(f"{found.place}: {shown(found.certificate)}: {problem}: {remedy}")


def _shown_name(name: x509.Name) -> str:
    try:
        text = name.rfc4514_string()
    except MALFORMED:
        text = ""
    readable = printable(text, MAX_SHOWN_NAME, "�")
    return f"'{readable}'" if readable else "the certificate without a name"
