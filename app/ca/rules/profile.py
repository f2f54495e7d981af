"""The certificates of authorities, and their builder (X509-SVID, section 3.2; RFC 5280, section 4)."""

from datetime import datetime

from cryptography import x509
from cryptography.x509.oid import NameOID

from app.spiffe.id import TrustDomain
from app.spiffe.keys import SubjectKey, accepted_key, key_id

ROOT_TITLE = "root"
SIGNER_TITLE = "signer"
SERIAL_BITS = 128
# RFC 5280, appendix A.1: ub-common-name and ub-organization-name.
MAX_NAME_LENGTH = 64
# A signing certificate signs leaves and nothing else.
SIGNER_PATH_LENGTH = 0
# How much of an authority's id is in its name, for people who read certificates.
SHOWN_ID_LENGTH = 8

_USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


def key_usage(*usages: str) -> x509.KeyUsage:
    """Return the extension that allows these usages, by the names that `x509.KeyUsage` has for them, and no other."""
    return x509.KeyUsage(**{usage: usage in usages for usage in _USAGES})


_AUTHORITY_USAGE = key_usage("key_cert_sign", "crl_sign")


def authority_id(public_key: SubjectKey) -> str:
    """Return the id of the authority that holds a key: its key identifier, in hexadecimal."""
    return key_id(public_key).hex()


def signs_crls(authority: x509.Certificate) -> bool:
    """Whether the key usage of an authority has cRLSign (RFC 5280, section 4.2.1.3)."""
    return authority.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign


def authority_builder(
    trust_domain: TrustDomain,
    public_key: SubjectKey,
    serial: int,
    lifetime: tuple[datetime, datetime],
    issuer: x509.Certificate | None,
    path_length: int = SIGNER_PATH_LENGTH,
    *,
    organization: str | None = None,
) -> x509.CertificateBuilder:
    """Return the builder of an authority under `issuer`, None for a root; `lifetime` is from and to (X509-SVID 3.2).

    `path_length` is how many authorities may stand beneath it, for a root any number; `organization` is in its name
    instead of the trust domain.
    """
    subject = _authority_subject(organization or trust_domain.name, SIGNER_TITLE if issuer else ROOT_TITLE, public_key)
    identifier = x509.SubjectKeyIdentifier(key_id(public_key))
    own_key = x509.AuthorityKeyIdentifier(identifier.digest, None, None)
    spiffe_id = x509.UniformResourceIdentifier(str(trust_domain.id))
    return (
        x509.CertificateBuilder()
        .serial_number(serial)
        .issuer_name(issuer.subject if issuer else subject)
        .subject_name(subject)
        .not_valid_before(lifetime[0])
        .not_valid_after(lifetime[1])
        .public_key(public_key)
        .add_extension(_AUTHORITY_USAGE, critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length if issuer else None), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(authority_key_identifier(issuer) if issuer else own_key, critical=False)
        .add_extension(x509.SubjectAlternativeName([spiffe_id]), critical=False)
    )


def _authority_subject(organization: str, title: str, public_key: SubjectKey) -> x509.Name:
    """Return an authority's name: its organisation, if that is not too long, its title and the start of its id."""
    common_name = f"Meshward {title} {authority_id(public_key)[:SHOWN_ID_LENGTH]}"
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if len(organization) <= MAX_NAME_LENGTH:
        attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(attributes)


def authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Return the extension by which a certificate names the key of its issuer, where that has an identifier by it."""
    for extension in issuer.extensions:
        if isinstance(extension.value, x509.SubjectKeyIdentifier):
            return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(extension.value)
    return x509.AuthorityKeyIdentifier(key_id(accepted_key(issuer)), None, None)
