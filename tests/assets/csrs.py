"""Certificate requests as callers make them, good and bad."""

import base64
import textwrap

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID


def csr_for(key, *, common_name=None, sans=(), algorithm=None):
    """The PEM request that `key` signs."""
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    if sans:
        builder = builder.add_extension(x509.SubjectAlternativeName(list(sans)), critical=False)
    if algorithm is None and not isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey):
        algorithm = hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.PEM).decode()


def csr(**named):
    """The PEM request of a new P-256 key."""
    return csr_for(ec.generate_private_key(ec.SECP256R1()), **named)


def with_extension_twice():
    """A request with a good signature and two subject alternative names, which no library makes."""
    key, names = ec.generate_private_key(ec.SECP256R1()), x509.SubjectAlternativeName([x509.DNSName("a")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=False)
    # Its id is as long as the other's: 2.5.29.17 and 2.5.29.18.
    other = x509.IssuerAlternativeName([x509.DNSName("b")])
    made = builder.add_extension(other, critical=False).sign(key, hashes.SHA256())
    signed = made.tbs_certrequest_bytes.replace(bytes.fromhex("0603551d12"), bytes.fromhex("0603551d11"))
    signature = key.sign(signed, ec.ECDSA(hashes.SHA256()))
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")  # ecdsa-with-SHA256
    bits = b"\x03" + bytes((len(signature) + 1, 0)) + signature
    content = signed + algorithm + bits
    assert 128 <= len(content) < 256, "of a length that takes one more byte"
    return as_pem(b"\x30\x81" + bytes((len(content),)) + content)


def tampered(pem):
    """The same request with one bit of its signature turned over."""
    der = bytearray(x509.load_pem_x509_csr(pem.encode()).public_bytes(Encoding.DER))
    der[-1] ^= 1
    return as_pem(bytes(der))


def as_pem(der, label="CERTIFICATE REQUEST"):
    body = "\n".join(textwrap.wrap(base64.b64encode(der).decode(), 64))
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----\n"
