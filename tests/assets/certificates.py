"""Certificates as tests need them: one builder, leaves and authorities with one thing changed, and a small CA."""

import ipaddress
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from app.spiffe.bundle import TrustBundle
from app.spiffe.id import TrustDomain
from app.spiffe.x509_svid import parse_certificate, verify_svid

DOMAIN = "example.org"
CART = f"spiffe://{DOMAIN}/ns/shop/sa/cart"
BACKDATE = timedelta(minutes=2)
HOUR = timedelta(hours=1)
NO_SUBJECT = x509.Name([])
SERVER_AUTH, CLIENT_AUTH = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
CA_TRUE = (x509.BasicConstraints(ca=True, path_length=None), True)
CA_FALSE = (x509.BasicConstraints(ca=False, path_length=None), True)
USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def new_key():
    return ec.generate_private_key(ec.SECP256R1())


def pem(certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def key_pem(key) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def proven_id(chain, bundle, now):
    """The SPIFFE ID that a chain (PEM, leaf first) proves under a trust bundle. Raises as the verifier does."""
    certificates, roots = ([parse_certificate(text) for text in pems] for pems in (chain, bundle.roots))
    return verify_svid(certificates, roots, bundle.trust_domain, now).spiffe_id


def named(common_name) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def usage(*names) -> x509.KeyUsage:
    return x509.KeyUsage(**{name: name in names for name in USAGES})


def purposes(*oids) -> x509.ExtendedKeyUsage:
    return x509.ExtendedKeyUsage(oids)


def subject_names(*uris, dns=(), ips=()) -> x509.SubjectAlternativeName:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    names += [x509.DNSName(name) for name in dns]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in ips]
    return x509.SubjectAlternativeName(names)


def certificate(*, subject, issuer, public_key, signing_key, extensions, not_before, not_after):
    """A certificate with the extensions: pairs of a value and whether it is critical."""
    builder = (
        x509.CertificateBuilder()
        .serial_number(x509.random_serial_number())
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .not_valid_before(not_before)
        .not_valid_after(not_after)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(signing_key, None if isinstance(signing_key, Ed25519PrivateKey) else hashes.SHA256())


class Authority:
    """An authority with its certificate and key, which issues whatever a test asks for."""

    def __init__(self, certificate, key) -> None:
        self.certificate, self.key = certificate, key

    @property
    def pem(self) -> str:
        return pem(self.certificate)

    def leaf(self, public_key, not_before, not_after, uris=(CART,), *, dns=(), ips=(), subject=NO_SUBJECT, **changed):
        """An X509-SVID, but for the extensions that are `changed`: a pair of a value and its criticality, or None."""
        extensions = {
            "constraints": CA_FALSE,
            "usage": (usage("digital_signature"), True),
            "purposes": (purposes(SERVER_AUTH, CLIENT_AUTH), False),
            "names": (subject_names(*uris, dns=dns, ips=ips), True),
        } | changed
        return self._issue(subject, public_key, [one for one in extensions.values() if one], not_before, not_after)

    def crl(self, *serials, now, end) -> str:
        """A revocation list, PEM."""
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
        builder = builder.last_update(now).next_update(end)
        for serial in serials:
            revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            builder = builder.add_revoked_certificate(revoked)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()

    def authority(self, name, not_before, not_after, *, path_length=0, key=None, uris=(), **changed):
        """A signing certificate beneath this one, but for the extensions that are `changed`."""
        key = key or new_key()
        extensions = _authority_extensions(path_length, uris) | changed
        present = [one for one in extensions.values() if one]
        return Authority(self._issue(named(name), key.public_key(), present, not_before, not_after), key)

    def _issue(self, subject, public_key, extensions, not_before, not_after):
        return certificate(
            subject=subject,
            issuer=self.certificate.subject,
            public_key=public_key,
            signing_key=self.key,
            extensions=extensions,
            not_before=not_before,
            not_after=not_after,
        )


def root_authority(name, not_before, not_after, *, path_length=None, key=None, uris=()):
    """A self-signed authority."""
    key = key or new_key()
    made = certificate(
        subject=named(name),
        issuer=named(name),
        public_key=key.public_key(),
        signing_key=key,
        extensions=_authority_extensions(path_length, uris).values(),
        not_before=not_before,
        not_after=not_after,
    )
    return Authority(made, key)


def _authority_extensions(path_length, uris):
    extensions = {
        "constraints": (x509.BasicConstraints(ca=True, path_length=path_length), True),
        "usage": (usage("key_cert_sign", "crl_sign"), True),
    }
    return extensions | ({"names": (subject_names(*uris), False)} if uris else {})


class MeshCa:
    """A root and a signing certificate under it, valid from a day before `now` for ten years."""

    def __init__(self, now: datetime | None = None, domain: str = DOMAIN) -> None:
        now = now or datetime.now(UTC)
        life = (now - timedelta(days=1), now + timedelta(days=3650))
        self.domain = domain
        own_id = (f"spiffe://{domain}",)
        self.root = root_authority(f"{domain} root", *life, uris=own_id)
        self.signer = self.root.authority(f"{domain} signer", *life, uris=own_id)

    @property
    def roots(self) -> str:
        return self.root.pem

    @property
    def bundle(self) -> TrustBundle:
        return TrustBundle(TrustDomain(self.domain), (self.roots,))

    def leaf(self, public_key, now, ttl=HOUR, **options):
        return self.signer.leaf(public_key, now - BACKDATE, now + ttl, **options)

    def answer(self, csr: str, now: datetime, ttl: timedelta = HOUR, **options) -> tuple[str, ...]:
        """The cert_chain for a request: leaf, signer, roots."""
        request = x509.load_pem_x509_csr(csr.encode())
        assert request.is_signature_valid
        return (pem(self.leaf(request.public_key(), now, ttl, **options)), self.signer.pem, self.roots)

    def serving(self, now: datetime | None = None, **options) -> tuple[bytes, bytes]:
        """Key and chain, PEM, of a server on this machine."""
        key = new_key()
        names = {"uris": (f"spiffe://{self.domain}/meshward/server",), "dns": ("localhost",), "ips": ("127.0.0.1",)}
        leaf = self.leaf(key.public_key(), now or datetime.now(UTC), timedelta(days=1), **names | options)
        return key_pem(key), (pem(leaf) + self.signer.pem).encode()
