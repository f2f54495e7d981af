"""A certificate that claims an identity of the mesh, signed by a CA that the mesh does not know."""

import ssl
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from app.core.private_files import replace_private_file
from app.spiffe.id import SpiffeId

BACKDATE = timedelta(minutes=2)
LIFETIME = timedelta(hours=1)
STRANGER = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "A stranger's CA")])

_PURPOSES = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
_NO_USAGE = dict.fromkeys(
    (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    ),
    False,
)


def stranger_pem(claimed: SpiffeId, now: datetime) -> bytes:
    """Return a key, an SVID for `claimed` and the stranger's own root as PEM; only its signer is wrong."""
    root_key, leaf_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = _builder(STRANGER, claimed.trust_domain.id, root_key.public_key(), now)
    leaf = _builder(x509.Name([]), claimed, leaf_key.public_key(), now).add_extension(_PURPOSES, critical=False)
    certificates = (builder.sign(root_key, hashes.SHA256()) for builder in (leaf, root))
    key = leaf_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return key + b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def stranger_context(pem: bytes, file: Path, bundle: Path) -> ssl.SSLContext:
    """Return a TLS client that shows the certificate in `pem` and itself trusts the mesh's `bundle`.

    Writes `pem` to `file`, since OpenSSL takes a client's certificate from files only.
    """
    replace_private_file(file, pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # an SVID names its owner in a URI
    context.load_verify_locations(bundle)
    context.load_cert_chain(file)
    return context


def _builder(
    subject: x509.Name, spiffe_id: SpiffeId, key: ec.EllipticCurvePublicKey, now: datetime
) -> x509.CertificateBuilder:
    """Return the builder of the certificate of `spiffe_id`: a CA's if it is a trust domain, else a workload's."""
    is_ca = not spiffe_id.path
    usage = {"key_cert_sign": True, "crl_sign": True} if is_ca else {"digital_signature": True}
    name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(spiffe_id))])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(STRANGER)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=0 if is_ca else None), critical=True)
        .add_extension(x509.KeyUsage(**_NO_USAGE | usage), critical=True)
        .add_extension(name, critical=not is_ca)
    )
