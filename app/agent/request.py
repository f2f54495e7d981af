"""The agent's side of a certification: a key and its request, and the checks of the answer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from app.agent.model import Identity
from app.core.errors import InvalidInputError, PreconditionError
from app.spiffe.bundle import TrustBundle, parse_bundle
from app.spiffe.id import SpiffeId
from app.spiffe.x509_svid import WorkloadSvid, parse_certificate, pem, read_leaf, verify_svid

# A leaf and the bundle.
MIN_ANSWER_PARTS = 2
# A leaf, the signing certificates of a deep hierarchy, and the bundle.
MAX_ANSWER_PARTS = 8


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """A new P-256 key (PEM, PKCS#8) and the PEM certificate signing request made with it."""

    private_key: bytes = field(repr=False)
    csr: str


def make_request() -> KeyRequest:
    """Return a new key and its request. The request has no names: the proof it is sent with identifies the caller."""
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return KeyRequest(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), pem(csr))


def accept_answer(
    private_key: bytes, answer: Sequence[str], now: datetime, expected: SpiffeId | None = None
) -> Identity:
    """Return the identity that `answer` (the `cert_chain` of Istio's CA) gives to the holder of `private_key`.

    Raises PreconditionError with the reason unless all of this holds:

    1. it has a leaf and a bundle (pilot-agent refuses less), and not more parts than any hierarchy needs;
    2. its last part is one or more well-formed certificates, the roots;
    3. the chain is a valid X509-SVID under those roots at `now`;
    4. the leaf is for our key;
    5. its SPIFFE ID is the `expected` one, if there is one: a renewal does not change the identity.
    """
    try:
        return _read_answer(private_key, answer, now, expected)
    except InvalidInputError as error:
        raise PreconditionError(f"the control plane's answer is refused: {error.message}") from error


def _read_answer(private_key: bytes, answer: Sequence[str], now: datetime, expected: SpiffeId | None) -> Identity:
    if not MIN_ANSWER_PARTS <= len(answer) <= MAX_ANSWER_PARTS:  # 1
        raise InvalidInputError(f"it has {len(answer)} parts instead of a chain and the roots")
    roots = parse_bundle(answer[-1])  # 2
    chain = tuple(parse_certificate(part) for part in answer[:-1])
    domain = read_leaf(chain[0]).spiffe_id.trust_domain
    svid = verify_svid(chain, roots, domain, now)  # 3
    if chain[0].public_key() != load_key(private_key).public_key():  # 4
        raise InvalidInputError("its certificate is for another key")
    if expected is not None and svid.spiffe_id != expected:  # 5
        raise InvalidInputError(f"it is for {svid.spiffe_id}, not for {expected}")
    return Identity(
        WorkloadSvid(
            spiffe_id=svid.spiffe_id,
            chain=tuple(pem(certificate) for certificate in chain),
            private_key=private_key,
            not_before=chain[0].not_valid_before_utc,
            not_after=svid.not_after,
        ),
        TrustBundle(domain, tuple(pem(root) for root in roots)),
    )


def load_key(text: bytes) -> ec.EllipticCurvePrivateKey:
    """Return the private key in a PEM document. Raises InvalidInputError if it is not an elliptic curve key."""
    try:
        key = serialization.load_pem_private_key(text, password=None)
    except (ValueError, TypeError) as error:
        raise InvalidInputError("the private key is not well-formed PEM") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvalidInputError("the private key is not an elliptic curve key")
    return key
