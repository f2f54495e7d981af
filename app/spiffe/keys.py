"""The kinds of public key that may be certified."""

import hashlib

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.core.errors import InvalidInputError

MIN_RSA_BITS = 2048
# Bounds the cost of a signature check, which the caller chooses.
MAX_RSA_BITS = 8192
# A large exponent makes a check as slow as a signature; a small one is unsafe with bad padding (NIST SP 800-56B).
MIN_RSA_EXPONENT = 65_537
MAX_RSA_EXPONENT = 2**32

# RFC 7093, section 2, method 1: the leftmost 160 bits of the SHA-256 of the key.
KEY_ID_BYTES = 20

SubjectKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey

_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_NOT_ACCEPTED = "the type of its key is not accepted: use P-256, P-384, P-521, RSA or Ed25519"


def accepted_key(document: x509.Certificate | x509.CertificateSigningRequest) -> SubjectKey:
    """Return the key of a certificate or a request: P-256, P-384, P-521, RSA of 2048 to 8192 bits, or Ed25519.

    Raises InvalidInputError with what is wrong with the key if it is another, ValueError if it is not well-formed.
    """
    try:
        key = document.public_key()
    except UnsupportedAlgorithm as error:
        raise InvalidInputError(_NOT_ACCEPTED) from error
    match key:
        case ec.EllipticCurvePublicKey():
            if not isinstance(key.curve, _CURVES):
                raise InvalidInputError(f"the curve {key.curve.name} is not accepted: use P-256, P-384 or P-521")
        case rsa.RSAPublicKey():
            _check_rsa_key(key)
        case ed25519.Ed25519PublicKey():
            pass
        case _:
            raise InvalidInputError(_NOT_ACCEPTED)
    _check_encoding(key, document)
    return key


def key_id(public_key: SubjectKey) -> bytes:
    """Return the key identifier of a public key (RFC 7093, section 2, method 1)."""
    match public_key:
        case ec.EllipticCurvePublicKey():
            encoding, form = Encoding.X962, PublicFormat.UncompressedPoint
        case rsa.RSAPublicKey():
            encoding, form = Encoding.DER, PublicFormat.PKCS1
        case _:
            encoding, form = Encoding.Raw, PublicFormat.Raw
    return hashlib.sha256(public_key.public_bytes(encoding, form)).digest()[:KEY_ID_BYTES]


def _check_encoding(key: SubjectKey, document: x509.Certificate | x509.CertificateSigningRequest) -> None:
    """Check that the document has the key in the form that every peer reads.

    Which is rsaEncryption (RFC 3279, section 2.3.1) or a named curve with an uncompressed point (RFC 5480, section 2).
    The library reads RSASSA-PSS keys as plain ones and explicit parameters as the curve that they describe; Go's
    does not.
    """
    content = (
        document.tbs_certificate_bytes if isinstance(document, x509.Certificate) else document.tbs_certrequest_bytes
    )
    if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) not in content:
        raise InvalidInputError(
            "the encoding of its key is not accepted: use rsaEncryption, or a named curve with an uncompressed point"
        )


def _check_rsa_key(key: rsa.RSAPublicKey) -> None:
    if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        raise InvalidInputError(
            f"an RSA key of {key.key_size} bits is not accepted: use {MIN_RSA_BITS} to {MAX_RSA_BITS}"
        )
    if not MIN_RSA_EXPONENT <= key.public_numbers().e <= MAX_RSA_EXPONENT:
        raise InvalidInputError("the RSA key's public exponent is not accepted: use 65537")
