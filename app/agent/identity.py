"""The identity that the agent holds: how it is requested, and what the control plane's answer must be."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from app.core.errors import InvalidInputError, PreconditionError
from app.spiffe.bundle import TrustBundle, parse_bundle
from app.spiffe.id import SpiffeId
from app.spiffe.keys import accepted_key, key_id
from app.spiffe.x509_svid import MALFORMED, WorkloadSvid, parse_certificate, pem, read_leaf, verify_svid

# A leaf and the bundle.
MIN_ANSWER_PARTS = 2
# A leaf, the signing certificates of a deep hierarchy, and the bundle.
MAX_ANSWER_PARTS = 8


@dataclass(frozen=True, slots=True)
class Identity:
    """A workload's SVID with its key, and the trust bundle that its peers are verified with."""

    svid: WorkloadSvid
    bundle: TrustBundle


@dataclass(frozen=True, slots=True)
class JoinToken:
    """Proof of a first enrolment. Single use."""

    secret: str = field(repr=False)


Proof = JoinToken | Identity
"""What the agent authenticates with: a join token at first, the identity that it holds afterwards."""


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


def is_withdrawn(svid: WorkloadSvid, withdrawn: Collection[str]) -> bool:
    """Whether one of the authorities that signed an SVID is among those with these ids."""
    signers = [parse_certificate(part) for part in svid.chain[1:]]
    return any(key_id(accepted_key(signer)).hex() in withdrawn for signer in signers)


def is_trusted(svid: WorkloadSvid, bundle: TrustBundle, now: datetime) -> bool:
    """Whether peers with a trust bundle accept an SVID at `now`."""
    chain, roots = ([parse_certificate(part) for part in parts] for parts in (svid.chain, bundle.roots))
    try:
        verify_svid(chain, roots, svid.spiffe_id.trust_domain, now)
    except InvalidInputError:
        return False
    return True


def _read_answer(private_key: bytes, answer: Sequence[str], now: datetime, expected: SpiffeId | None) -> Identity:
    if not MIN_ANSWER_PARTS <= len(answer) <= MAX_ANSWER_PARTS:  # 1
        raise InvalidInputError(f"it has {len(answer)} parts instead of a chain and the roots")
    roots = parse_bundle(answer[-1])  # 2
    chain = tuple(parse_certificate(part) for part in answer[:-1])
    domain = read_leaf(chain[0]).spiffe_id.trust_domain
    svid = verify_svid(chain, roots, domain, now)  # 3
    try:
        key = load_pem_private_key(private_key, password=None)
    except MALFORMED as error:
        raise InvalidInputError("the private key is not well-formed PEM") from error
    if chain[0].public_key() != key.public_key():  # 4
        raise InvalidInputError("its certificate is for another key")
    if expected is not None and svid.spiffe_id != expected:  # 5
        raise InvalidInputError(f"it is for {svid.spiffe_id}, not for {expected}")
    certified = WorkloadSvid(
        spiffe_id=svid.spiffe_id,
        chain=tuple(pem(certificate) for certificate in chain),
        private_key=private_key,
        not_before=chain[0].not_valid_before_utc,
        not_after=svid.not_after,
    )
    return Identity(certified, TrustBundle(domain, tuple(pem(root) for root in roots)))
