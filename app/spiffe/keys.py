"""The kinds of public key that may be certified."""

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from app.core.errors import InvalidInputError

MIN_RSA_BITS = 2048
# Bounds the cost of a signature check, which the caller chooses.
MAX_RSA_BITS = 4096
# A large exponent makes a check as slow as a signature; a small one is unsafe with bad padding (NIST SP 800-56B).
MIN_RSA_EXPONENT = 65_537
MAX_RSA_EXPONENT = 2**32

SubjectKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey

_CURVES = (ec.SECP256R1, ec.SECP384R1)
_NOT_ACCEPTED = "the type of its key is not accepted: use P-256, P-384, RSA or Ed25519"


def accepted_key(document: x509.Certificate | x509.CertificateSigningRequest) -> SubjectKey:
    """Return the key of a certificate or a request: P-256, P-384, RSA of 2048 to 4096 bits, or Ed25519.

    Raises InvalidInputError with what is wrong with the key if it is another, ValueError if it is not well-formed.
    """
    try:
        key = document.public_key()
    except UnsupportedAlgorithm as error:
        raise InvalidInputError(_NOT_ACCEPTED) from error
    match key:
        case ec.EllipticCurvePublicKey():
            if not isinstance(key.curve, _CURVES):
                raise InvalidInputError(f"the curve {key.curve.name} is not accepted: use P-256 or P-384")
            return key
        case rsa.RSAPublicKey():
            return _accepted_rsa_key(key)
        case ed25519.Ed25519PublicKey():
            return key
        case _:
            raise InvalidInputError(_NOT_ACCEPTED)


def _accepted_rsa_key(key: rsa.RSAPublicKey) -> rsa.RSAPublicKey:
    if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        raise InvalidInputError(
            f"an RSA key of {key.key_size} bits is not accepted: use {MIN_RSA_BITS} to {MAX_RSA_BITS}"
        )
    if not MIN_RSA_EXPONENT <= key.public_numbers().e <= MAX_RSA_EXPONENT:
        raise InvalidInputError("the RSA key's public exponent is not accepted: use 65537")
    return key
