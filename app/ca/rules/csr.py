"""Parsing a certificate signing request: the proof that the caller holds an acceptable key.

The identity comes from the caller's authentication alone: names and extensions in the request are ignored, except
whether it has a common name.
"""

from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app.core.errors import InvalidInputError, Violation
from app.spiffe.keys import SubjectKey, accepted_key
from app.spiffe.x509_svid import MALFORMED

# An RSA-8192 request with a few names is about 3 KB; a longer one is refused before it is parsed.
MAX_CSR_BYTES = 16 * 1024
_BEGIN = "-----BEGIN "
# RFC 7468, section 7, and the label of before, which some tools still write.
_LABELS = ("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """The parts of a request that are used: the key to certify and whether its subject has a common name."""

    public_key: SubjectKey
    wants_common_name: bool


def parse_csr(pem: str) -> CertificateRequest:
    """Return the parts of the PEM request, after its signature was verified with its own key (RFC 2986, section 3).

    Raises InvalidInputError if it is too large, is not one PEM request and nothing else, has a key or hash that is not
    accepted or an extension twice, or was not signed with that key.
    """
    if len(pem) > MAX_CSR_BYTES:
        raise _refused(f"longer than {MAX_CSR_BYTES} bytes")
    if not pem.isascii() or pem.count(_BEGIN) != 1 or not _is_block(pem):
        raise _refused("not one PEM block of the type CERTIFICATE REQUEST, with nothing around it")
    try:
        csr = x509.load_pem_x509_csr(pem.encode("ascii"))
        key = accepted_key(csr)
        _check_hash(csr)
        # Not used, and yet to be well-formed, each of them there once: who reads the request later may use the first.
        _ = csr.extensions
        signed = _is_signed(csr, key)
        wants_common_name = any(name.value for name in csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME))
    except MALFORMED as error:
        raise _refused("not a well-formed PKCS#10 request") from error
    except InvalidInputError as error:
        raise _refused(error.message) from error
    if not signed:
        raise _refused("its signature was not made with the key that it names")
    return CertificateRequest(key, wants_common_name)


def _is_block(pem: str) -> bool:
    text = pem.strip()
    return any(text.startswith(f"-----BEGIN {it}-----") and text.endswith(f"-----END {it}-----") for it in _LABELS)


def _check_hash(csr: x509.CertificateSigningRequest) -> None:
    algorithm = csr.signature_hash_algorithm
    if algorithm is not None and not isinstance(algorithm, _HASHES):
        raise InvalidInputError(f"signed over {algorithm.name}: use SHA-256, SHA-384 or SHA-512")


def _is_signed(csr: x509.CertificateSigningRequest, key: SubjectKey) -> bool:
    """Whether a request was signed with the key that was read from it.

    `csr.is_signature_valid` reads the key once more, which for an EC key takes a fifth of its time.
    """
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return csr.is_signature_valid
    algorithm = csr.signature_algorithm_parameters
    if not isinstance(algorithm, ec.ECDSA):
        return False
    try:
        key.verify(csr.signature, csr.tbs_certrequest_bytes, algorithm)
    except InvalidSignature:
        return False
    return True


def _refused(problem: str) -> InvalidInputError:
    return InvalidInputError(f"the CSR is refused: {problem}", Violation("csr", problem))
