"""Reading a certificate signing request: the proof that the caller holds a key worth certifying.

Who the caller is comes from its authentication alone: names and extensions in the request are not read, but for
whether a common name is wanted.
"""

from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from app.ca.rules.parsing import MALFORMED
from app.core.errors import InvalidInputError, Violation

# An RSA-4096 request with a few names is about 2 KB; anything longer is refused before it is parsed.
MAX_CSR_BYTES = 16 * 1024
MIN_RSA_BITS = 2048
# Bounds the cost of a signature check, which the caller chooses.
MAX_RSA_BITS = 4096
# A large exponent makes a check as slow as a signature; a small one is unsafe with bad padding (NIST SP 800-56B).
MIN_RSA_EXPONENT = 65_537
MAX_RSA_EXPONENT = 2**32

SubjectKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey

_BEGIN = "-----BEGIN "
_CURVES = (ec.SECP256R1, ec.SECP384R1)
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """What a request says that is used: the key to certify and whether its subject has a common name."""

    public_key: SubjectKey
    wants_common_name: bool


def parse_csr(pem: str) -> CertificateRequest:
    """Return what the PEM request says, after its signature was checked against its own key (RFC 2986, section 3).

    Raises InvalidInputError if it is too large, is not one PEM request, has a key or hash that is not accepted, or
    was not signed with that key.
    """
    if len(pem) > MAX_CSR_BYTES:
        raise _refused(f"longer than {MAX_CSR_BYTES} bytes")
    if not pem.isascii() or pem.count(_BEGIN) != 1:
        raise _refused("not one PEM block of the type CERTIFICATE REQUEST")
    try:
        csr = x509.load_pem_x509_csr(pem.encode("ascii"))
        key = accepted_key(csr.public_key())
        _check_hash(csr)
        signed = csr.is_signature_valid
        wants_common_name = _has_common_name(csr)
    except MALFORMED as error:
        raise _refused("not a well-formed PKCS#10 request") from error
    if not signed:
        raise _refused("its signature was not made with the key that it names")
    return CertificateRequest(key, wants_common_name)


def accepted_key(key: object) -> SubjectKey:
    """Return `key` if it may be certified: P-256, P-384, RSA of 2048 to 4096 bits, or Ed25519.

    Raises InvalidInputError with what is wrong with it otherwise.
    """
    match key:
        case ec.EllipticCurvePublicKey():
            if not isinstance(key.curve, _CURVES):
                raise _refused(f"the curve {key.curve.name} is not accepted: use P-256 or P-384")
            return key
        case rsa.RSAPublicKey():
            return _accepted_rsa_key(key)
        case ed25519.Ed25519PublicKey():
            return key
        case _:
            raise _refused("the type of its key is not accepted: use P-256, P-384, RSA or Ed25519")


def _accepted_rsa_key(key: rsa.RSAPublicKey) -> rsa.RSAPublicKey:
    if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        raise _refused(f"an RSA key of {key.key_size} bits is not accepted: use {MIN_RSA_BITS} to {MAX_RSA_BITS}")
    if not MIN_RSA_EXPONENT <= key.public_numbers().e <= MAX_RSA_EXPONENT:
        raise _refused("the RSA key's public exponent is not accepted: use 65537")
    return key


def _check_hash(csr: x509.CertificateSigningRequest) -> None:
    algorithm = csr.signature_hash_algorithm
    if algorithm is not None and not isinstance(algorithm, _HASHES):
        raise _refused(f"signed over {algorithm.name}: use SHA-256, SHA-384 or SHA-512")


def _has_common_name(csr: x509.CertificateSigningRequest) -> bool:
    return any(attribute.value for attribute in csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME))


def _refused(problem: str) -> InvalidInputError:
    return InvalidInputError(f"the CSR is refused: {problem}", Violation("csr", problem))
