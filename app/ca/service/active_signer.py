"""An authority with what signing takes: its certificate and those between it and its root, its key, that root."""

from dataclasses import dataclass

from cryptography import x509

from app.ca.model import Root, Signer
from app.ca.ports import SigningKey
from app.ca.rules.authority import check_stored
from app.ca.rules.profile import signs_crls
from app.spiffe.x509_svid import parse_certificate


@dataclass(frozen=True, slots=True)
class ActiveSigner:
    """A signing authority of this replica: its certificate and what is between it and its root, its key, that root."""

    signer: Signer
    chain: tuple[x509.Certificate, ...]
    key: SigningKey
    root: x509.Certificate

    @property
    def certificate(self) -> x509.Certificate:
        """The signing certificate."""
        return self.chain[0]

    @property
    def signs_crls(self) -> bool:
        """Whether verifiers accept revocation lists of it (RFC 5280, section 6.3.3 (f))."""
        return signs_crls(self.certificate)


def read_signer(signer: Signer, key: SigningKey, root: Root) -> ActiveSigner:
    """Return a signing authority with its certificates read. Raises InvalidInputError if they are not good."""
    check_stored(signer, root)
    chain = tuple(parse_certificate(each) for each in signer.chain)
    return ActiveSigner(signer, chain, key, parse_certificate(root.certificate))


def root_as_signer(root: Root, key: SigningKey) -> ActiveSigner:
    """Return a root as the authority that signs others. Raises InvalidInputError if its certificate is malformed."""
    certificate = parse_certificate(root.certificate)
    itself = Signer(root.id, root.id, root.certificate, root.not_before, root.not_after)
    return ActiveSigner(itself, (certificate,), key, certificate)
