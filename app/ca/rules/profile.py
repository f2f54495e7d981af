"""The certificates that this CA issues, and their builders (X509-SVID, sections 3 and 4; RFC 5280, section 4)."""

from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from app.core.errors import InternalError, InvalidInputError
from app.spiffe.id import SpiffeId, TrustDomain
from app.spiffe.keys import AuthorityKey, SubjectKey, key_id
from app.spiffe.x509_svid import MALFORMED, parse_certificate, pem, verify_svid

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


def _key_usage(*usages: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{usage: usage in usages for usage in _USAGES})


_AUTHORITY_USAGE = _key_usage("key_cert_sign", "crl_sign")
# Only an RSA key can encipher another (RFC 8813, section 3; RFC 9295, section 3).
_RSA_LEAF_USAGE, _LEAF_USAGE = _key_usage("digital_signature", "key_encipherment"), _key_usage("digital_signature")
_LEAF_EXTENDED_USAGE = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
_LEAF_CONSTRAINTS = x509.BasicConstraints(ca=False, path_length=None)


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


def authority_id(public_key: SubjectKey) -> str:
    """Return the id of the authority that holds a key: its key identifier, in hexadecimal."""
    return key_id(public_key).hex()


def signing_hash(public_key: AuthorityKey) -> hashes.SHA256 | hashes.SHA384:
    """Return the hash that goes with a key's strength (FIPS 186-5, section 6.1.1)."""
    if isinstance(public_key, ec.EllipticCurvePublicKey) and isinstance(public_key.curve, ec.SECP384R1):
        return hashes.SHA384()
    return hashes.SHA256()


def leaf_builder(profile: LeafProfile, issuer: x509.Certificate) -> x509.CertificateBuilder:
    """Return the builder of a leaf (X509-SVID, 3.1 and 4). Raises InternalError if a value does not fit into it."""
    try:
        return _leaf_builder(profile, issuer)
    except MALFORMED as error:
        raise InternalError("the SVID could not be built") from error


def check_leaf(
    signed: x509.Certificate, profile: LeafProfile, signer: x509.Certificate, root: x509.Certificate, now: datetime
) -> x509.Certificate:
    """Return the certificate read back from its PEM and verified at `now` as a peer would. Raises InternalError."""
    try:
        leaf = parse_certificate(pem(signed))
        verified = verify_svid((leaf, signer), (root,), profile.spiffe_id.trust_domain, now)
    except InvalidInputError as error:
        raise InternalError(f"the SVID that was signed is not valid and is held back: {error.message}") from error
    if verified.spiffe_id != profile.spiffe_id:
        raise InternalError("the SVID that was signed has another identity and is held back")
    return leaf


def _leaf_builder(profile: LeafProfile, issuer: x509.Certificate) -> x509.CertificateBuilder:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(profile.spiffe_id))]
    names += [x509.DNSName(name) for name in profile.dns_names]
    names += [x509.IPAddress(address) for address in profile.ip_addresses]
    usage = _RSA_LEAF_USAGE if isinstance(profile.public_key, rsa.RSAPublicKey) else _LEAF_USAGE
    builder = (
        x509.CertificateBuilder()
        .serial_number(profile.serial)
        .issuer_name(issuer.subject)
        .subject_name(_leaf_subject(profile))
        .not_valid_before(profile.not_before)
        .not_valid_after(profile.not_after)
        .public_key(profile.public_key)
        .add_extension(usage, critical=True)
        .add_extension(_LEAF_EXTENDED_USAGE, critical=False)
        .add_extension(_LEAF_CONSTRAINTS, critical=True)
        .add_extension(x509.SubjectKeyIdentifier(key_id(profile.public_key)), critical=False)
        .add_extension(_authority_key_identifier(issuer), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
    )
    if profile.crl_url is None:
        return builder
    place = x509.DistributionPoint([x509.UniformResourceIdentifier(profile.crl_url)], None, None, None)
    return builder.add_extension(x509.CRLDistributionPoints([place]), critical=False)


def authority_builder(
    trust_domain: TrustDomain,
    public_key: AuthorityKey,
    serial: int,
    lifetime: tuple[datetime, datetime],
    issuer: x509.Certificate | None,
) -> x509.CertificateBuilder:
    """Return the builder of an authority under `issuer`, None for a root; `lifetime` is from and to (X509-SVID 3.2)."""
    subject = _authority_subject(trust_domain, SIGNER_TITLE if issuer else ROOT_TITLE, public_key)
    identifier = x509.SubjectKeyIdentifier(key_id(public_key))
    own_key = x509.AuthorityKeyIdentifier(identifier.digest, None, None)
    spiffe_id = x509.UniformResourceIdentifier(str(trust_domain.id))
    path_length = SIGNER_PATH_LENGTH if issuer else None
    return (
        x509.CertificateBuilder()
        .serial_number(serial)
        .issuer_name(issuer.subject if issuer else subject)
        .subject_name(subject)
        .not_valid_before(lifetime[0])
        .not_valid_after(lifetime[1])
        .public_key(public_key)
        .add_extension(_AUTHORITY_USAGE, critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(_authority_key_identifier(issuer) if issuer else own_key, critical=False)
        .add_extension(x509.SubjectAlternativeName([spiffe_id]), critical=False)
    )


def _authority_subject(trust_domain: TrustDomain, title: str, public_key: SubjectKey) -> x509.Name:
    """Return an authority's name: organisation its trust domain, common name its title and the start of its id."""
    common_name = f"Meshward {title} {authority_id(public_key)[:SHOWN_ID_LENGTH]}"
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if len(trust_domain.name) <= MAX_NAME_LENGTH:
        attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain.name))
    return x509.Name(attributes)


def _leaf_subject(profile: LeafProfile) -> x509.Name:
    text = str(profile.spiffe_id)
    if not profile.common_name or len(text) > MAX_NAME_LENGTH:
        return x509.Name([])
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
