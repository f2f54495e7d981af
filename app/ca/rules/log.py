"""What the transparency log says, and what proves it: entries, signed tree heads, and their verification.

Shared by the CA, which writes the log, and by clients that verify it with the trust bundle alone.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from app.ca.model import AuthorityStage, Ban, IssuedSvid, Root, Signer
from app.ca.rules.merkle import Frontier, is_consistent, is_included, leaf_hash
from app.ca.rules.signatures import PrivateKey, SigningHash, signature_of, verify_signature
from app.core.errors import InvalidInputError
from app.core.json_text import parse_object
from app.spiffe.bundle import parse_bundle
from app.spiffe.id import SpiffeId, TrustDomain
from app.spiffe.keys import accepted_key
from app.spiffe.x509_svid import MALFORMED, authority_life

# The first line of what is signed: no certificate and no request, which the same key signs, begins with it.
HEAD_CONTEXT = "Meshward transparency log head v1"


@dataclass(frozen=True, slots=True)
class LogEntry:
    """What a leaf of the transparency log says. `text` is canonical JSON, of which the leaf is the hash.

    `subject` is what it is found by: the serial number of an SVID, the id of an authority, or the SHA-256 of what is
    banned.
    """

    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class LogLeaf(LogEntry):
    """An entry at its place in the log, which is counted from 0. `hash` is what is stored of it in the tree."""

    index: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class TreeHead:
    """The state of the log after `size` leaves, at a time in whole seconds."""

    trust_domain: TrustDomain
    size: int
    root_hash: bytes
    signed_at: datetime


@dataclass(frozen=True, slots=True)
class SignedTreeHead(TreeHead):
    """A tree head with the signature of an authority, whose certificate is PEM."""

    certificate: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class Inclusion:
    """The proof that a leaf is in the tree of a signed head (RFC 9162, section 2.1.3)."""

    leaf: LogLeaf
    head: SignedTreeHead
    proof: tuple[bytes, ...]


def svid_entry(svid: IssuedSvid) -> LogEntry:
    """Return the entry of an issued SVID: its record."""
    return _entry(
        svid.serial,
        "svid",
        serial=svid.serial,
        spiffe_id=str(svid.spiffe_id),
        signer_id=svid.signer_id,
        fingerprint=svid.fingerprint,
        not_before=_time(svid.not_before),
        not_after=_time(svid.not_after),
        issued_at=_time(svid.issued_at),
        surface=svid.surface.value,
        join_token_id=svid.token_id,
    )


def root_entry(root: Root) -> LogEntry:
    """Return the entry of a new root."""
    return _entry(root.id, "root", id=root.id, generation=root.generation, certificate=root.certificate)


def signer_entry(signer: Signer) -> LogEntry:
    """Return the entry of a signing authority that has its certificate, with what is between it and its root."""
    certificate = "".join(signer.chain)
    return _entry(signer.id, "signer", id=signer.id, root_id=signer.root_id, certificate=certificate)


def downstream_entry(signer: Signer, spiffe_id: SpiffeId) -> LogEntry:
    """Return the entry of a signing authority of another Meshward, which is the SPIFFE ID."""
    certificate, holder = "".join(signer.chain), str(spiffe_id)
    return _entry(signer.id, "downstream", id=signer.id, root_id=signer.root_id, holder=holder, certificate=certificate)


def stage_entry(stage: AuthorityStage) -> LogEntry:
    """Return the entry of a change of an authority; its subject is the id and the stage, as the id has another one."""
    since = _time(stage.since)
    return _entry(f"{stage.id}/{stage.stage.value}", "authority", id=stage.id, stage=stage.stage.value, since=since)


def ban_entry(ban: Ban) -> LogEntry:
    """Return the entry of a ban, or of a revocation."""
    expires_at = None if ban.expires_at is None else _time(ban.expires_at)
    times = {"created_at": _time(ban.created_at), "expires_at": expires_at}
    return _entry(_ban_key(ban.subject), "ban", subject=ban.subject, reason=ban.reason, **times)


def unban_entry(ban: Ban, at: datetime) -> LogEntry:
    """Return the entry of a ban that was lifted."""
    return _entry(_ban_key(ban.subject), "unban", subject=ban.subject, lifted_at=_time(at))


def entry_hash(entry: LogEntry) -> bytes:
    """Return the hash of the leaf of an entry."""
    return leaf_hash(entry.text.encode())


@dataclass(frozen=True, slots=True)
class UnsignedHead:
    """A tree head before its signature, for a `SigningKey`.

    `certificate` (PEM) is of the authority that signs; what is between it and its root follows.
    """

    head: TreeHead
    certificate: str

    def sign(self, private_key: PrivateKey, algorithm: SigningHash, /) -> SignedTreeHead:
        """Return the head with its signature, by the kind of the key."""
        head = self.head
        signature = signature_of(private_key, head_bytes(head), algorithm)
        return SignedTreeHead(head.trust_domain, head.size, head.root_hash, head.signed_at, self.certificate, signature)


def head_bytes(head: TreeHead) -> bytes:
    """Return what is signed of a head: lines of context, trust domain, size, hash and time."""
    lines = (HEAD_CONTEXT, head.trust_domain.name, str(head.size), head.root_hash.hex(), _time(head.signed_at), "")
    return "\n".join(lines).encode()


def check_head(head: SignedTreeHead, roots: Sequence[x509.Certificate]) -> None:
    """Check that an authority under one of the roots signed the head while it was valid.

    Raises InvalidInputError with what is wrong.
    """
    chain = parse_bundle(head.certificate)
    life = next((life for root in roots if (life := _life_under(root, chain, head)) is not None), None)
    if life is None:
        raise InvalidInputError("the tree head was signed by an authority that no root of the trust bundle vouches for")
    if not life[0] <= head.signed_at <= life[1]:
        raise InvalidInputError("the tree head was signed at a time at which its authority was not valid")
    try:
        verify_signature(accepted_key(chain[0]), head.signature, head_bytes(head))
    except MALFORMED as error:
        raise InvalidInputError("the tree head's signature is not valid") from error


def check_inclusion(inclusion: Inclusion) -> None:
    """Check that the leaf is in the tree of the head, whose signature is checked apart. Raises InvalidInputError."""
    leaf, head = inclusion.leaf, inclusion.head
    if leaf.hash != entry_hash(leaf):
        raise InvalidInputError(f"entry {leaf.index} of the log is not what its leaf says: it was changed")
    if not is_included(leaf.hash, leaf.index, head.size, inclusion.proof, head.root_hash):
        raise InvalidInputError(f"entry {leaf.index} is not in the log of {head.size} entries that the tree head is of")


def check_consistency(old: TreeHead, new: TreeHead, proof: Sequence[bytes]) -> None:
    """Check that the log of `new` begins with all of that of `old`. Raises InvalidInputError if it does not."""
    if old.trust_domain != new.trust_domain:
        raise InvalidInputError(f"the tree heads are of two logs: {old.trust_domain} and {new.trust_domain}")
    if not is_consistent(old.size, old.root_hash, new.size, new.root_hash, proof):
        raise InvalidInputError(
            f"the log of {new.size} entries does not begin with the one of {old.size}: entries were changed or removed"
        )


def check_tree(head: TreeHead, leaves: Sequence[LogLeaf]) -> None:
    """Check that the head is of exactly these leaves, and each leaf of its entry. Raises InvalidInputError."""
    for place, leaf in enumerate(leaves):
        if leaf.index != place:
            raise InvalidInputError(f"entry {place} of the log is missing")
        if leaf.hash != entry_hash(leaf):
            raise InvalidInputError(f"entry {place} of the log is not what its leaf says: it was changed")
    frontier, _ = Frontier().grown([leaf.hash for leaf in leaves])
    if (frontier.size, frontier.root) != (head.size, head.root_hash):
        raise InvalidInputError(
            f"the tree head of {head.size} entries is of another log than these {frontier.size} entries: "
            "entries were changed, removed or added"
        )


def serial_of(certificate: x509.Certificate) -> str:
    """Return the serial number of a certificate as the log has it."""
    return f"{certificate.serial_number:032x}"


def check_certificate(leaf: LogLeaf, certificate: x509.Certificate) -> None:
    """Check that an entry is of exactly this certificate of a workload. Raises InvalidInputError if it is not."""
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
    if fields_of(leaf).get("fingerprint") != fingerprint:
        raise InvalidInputError(f"entry {leaf.index} is of another certificate than the one with SHA-256 {fingerprint}")


def fields_of(entry: LogEntry) -> dict[str, object]:
    """Return what an entry says, by name. Raises InvalidInputError if it is not an entry of this log."""
    return parse_object(entry.text, "an entry of the log")


def _life_under(
    root: x509.Certificate, chain: Sequence[x509.Certificate], head: TreeHead
) -> tuple[datetime, datetime] | None:
    """Return from when to when the authority that signed a head is valid, None if the root has not issued it."""
    try:
        return authority_life(chain, root, head.trust_domain)
    except InvalidInputError:
        return None


def _entry(subject: str, kind: str, /, **fields: object) -> LogEntry:
    return LogEntry(subject, json.dumps({"kind": kind, **fields}, separators=(",", ":"), sort_keys=True))


def _ban_key(subject: str) -> str:
    # An id may be longer than a key, and a serial number is the key of its issuance.
    return sha256(subject.encode()).hexdigest()


def _time(time: datetime) -> str:
    return time.astimezone(UTC).isoformat()
