"""The files of a plug-in CA, in either layout of istiod's: what is in which, and how they become an authority."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from app.ca.model import Origin
from app.ca.rules.external import ExternalAuthority, Found, read_external, shown
from app.core.errors import InvalidInputError
from app.spiffe.bundle import MAX_ROOTS
from app.spiffe.id import TrustDomain
from app.spiffe.keys import SubjectKey, accepted_key
from app.spiffe.x509_svid import MALFORMED, parse_certificate

# Of certificates in a file: as many as a bundle has.
MAX_CERTIFICATES = MAX_ROOTS
_BEGIN_OF_CRL, _END_OF_CRL = b"-----BEGIN X509 CRL-----", b"-----END X509 CRL-----"


@dataclass(frozen=True, slots=True)
class Layout:
    """The names of the files. `chain` has what is between certificate and root, if there is a file for that.

    `crls` may be there: revocation lists of the authorities above.
    """

    name: str
    certificate: str
    key: str
    roots: str
    chain: str | None = None
    crls: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """Every file, all of which there must be."""
        return tuple(each for each in (self.certificate, self.key, self.chain, self.roots) if each is not None)


TLS = Layout("kubernetes.io/tls", "tls.crt", "tls.key", "ca.crt")
CACERTS = Layout("cacerts", "ca-cert.pem", "ca-key.pem", "root-cert.pem", "cert-chain.pem", "ca-crl.pem")


def layout_of(names: Collection[str]) -> Layout:
    """Return the layout of a directory with files of these names: that of a TLS secret if it has `tls.crt`, as istiod.

    Raises InvalidInputError if one of its files is missing.
    """
    layout = TLS if TLS.certificate in names else CACERTS
    missing = [each for each in layout.files if each not in names]
    if missing == list(layout.files):
        raise InvalidInputError(f"there is neither {TLS.certificate} nor {CACERTS.certificate}: put the files there")
    if missing:
        raise InvalidInputError(f"{missing[0]} is missing, one of {', '.join(layout.files)}: put it there")
    return layout


@dataclass(frozen=True, slots=True)
class PlugInFiles:
    """What the files of one layout have, as they were read at once; of the private key, its public one.

    `certificates` begins with the signing one.
    """

    layout: Layout
    certificates: bytes
    chain: bytes
    roots: bytes
    crls: bytes | None
    public_key: SubjectKey


def read_plug_in(files: PlugInFiles, trust_domain: TrustDomain, now: datetime) -> ExternalAuthority:
    """Return the authority that the files make. Raises InvalidInputError with the file, the reason and what to do."""
    layout = files.layout
    chain = _certificates(layout.certificate, files.certificates)
    signing = chain[0]
    if signing.certificate.public_key() != files.public_key:
        raise InvalidInputError(
            f"{layout.key}: it is not the key of {shown(signing.certificate)} in {layout.certificate}: "
            "take both from one issuance"
        )
    if layout.chain is not None:
        chain += _certificates(layout.chain, files.chain)
    roots = _certificates(layout.roots, files.roots)
    authority = read_external(Origin.PLUG_IN, chain, roots, trust_domain, now)
    if layout.crls is not None and files.crls is not None:
        _check_revocations(layout.crls, files.crls, authority)
    return authority


def _check_revocations(place: str, content: bytes, authority: ExternalAuthority) -> None:
    """Check that no list has a certificate of the authority; one that is over still counts."""
    path = [parse_certificate(each) for each in (*authority.signer.chain, authority.anchor.certificate)]
    for crl in _crls(place, content):
        issuer = next((each for each in path if each.subject == crl.issuer), None)
        if issuer is None or not crl.is_signature_valid(accepted_key(issuer)):
            problem = "it has a list that no authority above has signed"
            raise InvalidInputError(f"{place}: {problem}: leave that out")
        for certificate in path:
            revoked = crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
            if certificate.issuer == crl.issuer and revoked is not None:
                raise InvalidInputError(f"{place}: {shown(certificate)} is revoked: issue another")


def _crls(place: str, content: bytes) -> list[x509.CertificateRevocationList]:
    *blocks, rest = content.split(_END_OF_CRL)
    try:
        if _BEGIN_OF_CRL in rest:
            raise ValueError("the last one is cut off")
        if not 1 <= len(blocks) <= MAX_CERTIFICATES:
            raise ValueError("there is none, or there are too many")
        return [x509.load_pem_x509_crl(block[block.find(_BEGIN_OF_CRL) :] + _END_OF_CRL) for block in blocks]
    except MALFORMED as error:
        problem = "it has no revocation list in PEM, or one that is not well-formed"
        raise InvalidInputError(f"{place}: {problem}: write it again, or remove it") from error


def _certificates(place: str, content: bytes) -> list[Found]:
    try:
        found: Sequence[x509.Certificate] = x509.load_pem_x509_certificates(content)
        for certificate in found:
            certificate.public_key()
            list(certificate.extensions)
    except MALFORMED as error:
        problem = "it has no certificate in PEM, or one that is not well-formed"
        raise InvalidInputError(f"{place}: {problem}: write it again") from error
    if len(found) > MAX_CERTIFICATES:
        raise InvalidInputError(f"{place}: it has {len(found)} certificates, more than {MAX_CERTIFICATES}")
    return [Found(certificate, place) for certificate in found]
