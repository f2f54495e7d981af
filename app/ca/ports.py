"""What the CA's parts need from outside, as Protocols."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

from app.audit.ports import AuditTrail
from app.ca.model import (
    AuthorityStage,
    Ban,
    Entry,
    EntrySpec,
    IssuedSvid,
    JoinToken,
    KeyAlgorithm,
    Pod,
    ReplicaReport,
    Root,
    Signer,
    SigningRequest,
    Surface,
)
from app.ca.rules.crl import Crl
from app.ca.rules.log import LogLeaf, SignedTreeHead
from app.ca.rules.merkle import Frontier, Node, Tile
from app.ca.rules.plug_in import PlugInFiles
from app.ca.rules.signatures import PrivateKey, SigningHash
from app.spiffe.bundle import TrustBundle
from app.spiffe.id import SpiffeId
from app.spiffe.keys import SubjectKey

# How certificates are requested by those who hold no SDS stream, on which the trust bundle would follow.
WITHOUT_STREAM = frozenset({Surface.ISTIO_CA, Surface.SDS_FETCH})

Document = TypeVar("Document")
Document_co = TypeVar("Document_co", covariant=True)


class Unsigned(Protocol[Document_co]):
    """A document before its signature: a builder of certificates or certificate requests of `cryptography`."""

    def sign(self, private_key: PrivateKey, algorithm: SigningHash, /) -> Document_co:
        """Return the document signed with the key over the hash."""


class SigningKey(Protocol):
    """The private key of an authority, which signs inside its backend and is never handed out."""

    @property
    def public_key(self) -> SubjectKey:
        """The public key."""

    async def sign(self, document: Unsigned[Document]) -> Document:
        """Return the document signed over the hash of `signing_hash`. Raises UnavailableError or InternalError."""


class KeyStore(Protocol):
    """Where the private keys of authorities are kept, each under the id of its authority."""

    async def create(self, algorithm: KeyAlgorithm) -> SigningKey:
        """Create and keep a key; it is durable when this returns. Raises PreconditionError if it cannot be kept."""

    async def load(self, authority: str) -> SigningKey | None:
        """Return the key of an authority, None if it is not here. Raises PreconditionError if it is not safe to use."""

    async def remove(self, authority: str) -> None:
        """Delete a key that has signed nothing. Does nothing if it is not kept here."""


class BundlePublisher(Protocol):
    """Publishes the trust bundle to those who verify SVIDs."""

    async def publish(self, bundle: TrustBundle) -> None:
        """Replace the published bundle. Raises PreconditionError if that cannot be done."""


class PlugInSource(Protocol):
    """Where an operator puts the files of a plug-in CA."""

    @property
    def place(self) -> str:
        """Where they are, as messages name it."""

    async def version(self) -> str:
        """Return what differs if the files do; it is the same while nobody touches them."""
        ...

    async def read(self) -> tuple[PlugInFiles, SigningKey]:
        """Return the files, and the private key of their authority.

        Raises InvalidInputError with the file, the reason and what to do.
        """
        ...


class UpstreamCa(Protocol):
    """Another Meshward, which signs certificates of signing authorities for this one."""

    @property
    def place(self) -> str:
        """Where it is, as messages name it."""

    @property
    def spiffe_id(self) -> SpiffeId | None:
        """Who this control plane is there, None before it has enrolled."""

    @property
    def svid_not_after(self) -> datetime | None:
        """When the SVID ends that it is known by there."""

    def bundle(self) -> TrustBundle | None:
        """Return the trust bundle as the upstream has it now, None before this control plane has enrolled."""

    async def sign(self, csr: str, ttl: timedelta) -> tuple[Sequence[str], Sequence[str]]:
        """Return the chain (PEM, the certificate for the request first) and the roots.

        Raises PermissionDeniedError, UnauthenticatedError or InvalidInputError if it is refused, PreconditionError if
        the server is not trusted, and UnavailableError if it may work later.
        """
        ...


class Pods(Protocol):
    """The pods of a Kubernetes cluster."""

    async def pod(self, namespace: str, name: str) -> Pod | None:
        """Return a pod, None if there is none. Raises UnavailableError."""

    async def runs(self, namespace: str, service_account: str, node: str) -> bool:
        """Whether a pod of the service account, which has not ended, is on the node. Raises UnavailableError."""
        ...


class CaRepository(AuditTrail, Protocol):
    """Everything that the CA stores, in one transaction.

    Roots, stages, reports, signing requests, join tokens, entries and bans are authentic: what was not written with the
    secret that replicas share is not returned. Whatever is stored can be removed.
    """

    # Authorities

    async def roots(self) -> Sequence[Root]:
        """Return every authentic root, oldest generation first."""

    async def has_roots(self) -> bool:
        """Whether any root is stored, authentic or not."""

    async def add_root(self, root: Root) -> None:
        """Store a root. The transaction ends with ConflictError if its generation is taken."""

    async def replace_root(self, root: Root) -> None:
        """Store a root in the place of the authentic one with its id."""

    async def hold_authorities(self) -> None:
        """Return once no other transaction is changing stages; none does until this one ends."""

    async def stages(self) -> Sequence[AuthorityStage]:
        """Return the authentic stages of authorities."""
        ...

    async def put_stage(self, stage: AuthorityStage) -> None:
        """Store the stage of an authority in the place of the one before."""

    async def put_report(self, report: ReplicaReport) -> None:
        """Store the report of a replica in the place of the one before."""

    async def reports(self) -> Sequence[ReplicaReport]:
        """Return the authentic reports of replicas."""
        ...

    async def remove_report(self, replica_id: str) -> None:
        """Remove the report of a replica."""

    async def identities_under(self, root_id: str, now: datetime, limit: int) -> Sequence[SpiffeId]:
        """Return at most `limit` identities, all of whose certificates that have not ended are of a root."""
        ...

    async def unrenewed(self, before: datetime, now: datetime, limit: int) -> Sequence[SpiffeId]:
        """Return at most `limit` identities that hold certificates which came WITHOUT_STREAM, all issued `before`."""
        ...

    async def signers(self, root_id: str, now: datetime) -> Sequence[Signer]:
        """Return the signing authorities under a root that end after `now`, the last to end first."""

    async def signer(self, signer_id: str) -> Signer | None:
        """Return a signing authority, None if there is none with this id."""
        ...

    async def roots_above_others(self, now: datetime) -> Collection[str]:
        """Return the roots above signing authorities that were not requested here, and end after `now`."""
        ...

    async def put_signer(self, signer: Signer, now: datetime) -> None:
        """Store a signing authority that was not requested here, in the place of the one before with its id."""

    async def signing_requests(self, root_id: str, limit: int) -> Sequence[SigningRequest]:
        """Return at most `limit` requests that wait for the holder of the root's key, oldest first."""

    async def unapproved_requests(self, root_id: str, limit: int) -> Sequence[SigningRequest]:
        """Return at most `limit` requests of those that wait and are not authentic, oldest first."""
        ...

    async def approve_signing_request(self, request: SigningRequest) -> bool:
        """Make a request authentic. Returns False if it is no longer stored as it is."""
        ...

    async def add_signing_request(self, request: SigningRequest) -> None:
        """Store a request."""

    async def answer_signing_request(self, signer: Signer) -> bool:
        """Store the certificate that a request waits for. Returns False if it has been answered already."""

    async def remove_signing_request(self, request_id: str) -> None:
        """Remove a request that cannot be answered."""

    # Issued SVIDs

    async def hold_for_issuance(self, spiffe_ids: Collection[SpiffeId]) -> tuple[int, Sequence[Entry], Frontier]:
        """Return what SVIDs of identities are recorded by: as `hold_bans`, their entries, and as `log_frontier`."""
        ...

    async def add_svids(self, svids: Sequence[IssuedSvid]) -> None:
        """Record SVIDs. The transaction ends with ConflictError if a serial number is taken."""

    async def svids(self, before: int | None, limit: int, spiffe_id: SpiffeId | None) -> Sequence[IssuedSvid]:
        """Return at most `limit` records numbered below `before`, the newest first, of one id or of all."""

    async def svid(self, serial: str) -> IssuedSvid | None:
        """Return the record of a serial number, if there is one."""

    async def oldest_svid(self, now: datetime) -> datetime | None:
        """Return when the oldest of the SVIDs that end after `now` was issued, None if there is none."""
        ...

    async def remove_svids(self, ended_before: datetime, limit: int) -> int:
        """Remove at most `limit` records of SVIDs that ended before the time, and return how many were removed."""

    # Transparency log

    async def log_frontier(self) -> Frontier:
        """Return the state of the log, which is this transaction's to extend until it ends."""
        ...

    async def extend_log(self, leaves: Sequence[LogLeaf], nodes: Mapping[Node, bytes], frontier: Frontier) -> None:
        """Store leaves, the nodes that they completed and the new state.

        The transaction ends with ConflictError if a place is taken.
        """
        ...

    async def log_leaves(self, start: int, limit: int) -> Sequence[LogLeaf]:
        """Return at most `limit` leaves from an index on, in order."""
        ...

    async def log_leaf_of(self, subject: str) -> LogLeaf | None:
        """Return the last leaf of a subject, if there is one."""
        ...

    async def log_nodes(self, tiles: Collection[Tile]) -> Mapping[Node, bytes]:
        """Return the hashes of the stored nodes of tiles; those of level 0 are the leaves'."""
        ...

    async def add_head(self, head: SignedTreeHead) -> None:
        """Store a signed head, unless there is one of its size."""
        ...

    async def newest_head(self) -> SignedTreeHead | None:
        """Return the signed head of the largest size."""
        ...

    async def head_of(self, size: int) -> SignedTreeHead | None:
        """Return the signed head of a size."""
        ...

    # Join tokens

    async def add_token(self, token: JoinToken, secret_hash: bytes) -> None:
        """Store a token under the SHA-256 of its secret."""

    async def token_by_hash(self, secret_hash: bytes) -> JoinToken | None:
        """Return the token whose secret has this SHA-256, if there is one."""

    async def tokens_by_id(self, token_ids: Collection[str]) -> Sequence[JoinToken]:
        """Return those of the tokens that are stored."""

    async def tokens(self, after: str | None, limit: int) -> Sequence[JoinToken]:
        """Return at most `limit` tokens with ids above `after`, in the order of their ids."""

    async def redeem_tokens(self, token_ids: Collection[str], now: datetime) -> Collection[str]:
        """Mark tokens as used at `now`, and return those that were usable then.

        Of any number of transactions that try this for one token at once, one gets it.
        """

    async def remove_token(self, token_id: str) -> JoinToken | None:
        """Remove a token and return it, None if there was none."""

    async def remove_tokens(self, expired_before: datetime, limit: int) -> int:
        """Remove at most `limit` tokens that expired before the time, and return how many were removed."""

    # Entries

    async def add_entry(self, entry: Entry) -> None:
        """Store a new entry. The transaction ends with ConflictError if its SPIFFE ID has one."""

    async def entry(self, entry_id: str) -> Entry | None:
        """Return the entry with this id, if there is one."""

    async def entry_of(self, spiffe_id: SpiffeId) -> Entry | None:
        """Return the entry of a SPIFFE ID, if there is one."""

    async def entries(self, after: str | None, limit: int) -> Sequence[Entry]:
        """Return at most `limit` entries whose SPIFFE IDs are above `after`, in the database's order."""

    async def replace_entry(self, entry_id: str, spec: EntrySpec, version: int, now: datetime) -> Entry | None:
        """Store `spec` as the next version and return it, None if there is no entry with this id and version."""

    async def remove_entry(self, entry_id: str, version: int | None) -> Entry | None:
        """Remove an entry and return it, None if there is none with this id and, unless None, this version."""

    # Bans

    async def ban_revision(self) -> int:
        """Return the number of the last change of bans, 0 before the first."""
        ...

    async def hold_bans(self) -> int:
        """Return that number; no other transaction changes bans until this one ends."""
        ...

    async def next_ban_revision(self) -> int:
        """Count a change of bans; other transactions that change bans or hold them wait until this one ends."""
        ...

    async def bans(self) -> Sequence[Ban]:
        """Return every ban, in the order of their subjects."""
        ...

    async def ban_page(self, after: str | None, limit: int) -> Sequence[Ban]:
        """Return at most `limit` bans whose subjects are above `after`, in their order."""
        ...

    async def add_ban(self, ban: Ban) -> None:
        """Store a ban. The transaction ends with ConflictError if its subject has one."""

    async def remove_ban(self, subject: str) -> Ban | None:
        """Remove the ban of a subject and return it, None if there was none."""

    async def remove_bans(self, ended_before: datetime, limit: int) -> int:
        """Remove at most `limit` bans that ended before the time, and return how many were removed."""
        ...

    # Revocation lists

    async def crl_numbers(self) -> Mapping[str, int]:
        """Return the number of each stored list, by its authority."""
        ...

    async def crls(self, authority_ids: Collection[str]) -> Sequence[Crl]:
        """Return those of the lists that are stored."""
        ...

    async def put_crl(self, crl: Crl) -> None:
        """Replace the list of an authority. The transaction ends with ConflictError if its number is not larger."""

    async def live_svids(
        self, signer_id: str, subjects: Sequence[str], now: datetime, limit: int
    ) -> Sequence[IssuedSvid]:
        """Return at most `limit` records of SVIDs of an authority that end after `now` and that subjects of bans name.

        There may be others among them, which differ from these in case.
        """
        ...

    async def has_live_svids(self, signer_id: str, now: datetime) -> bool:
        """Whether an SVID of an authority ends after `now`."""
        ...


CaTransactions = Callable[[], AbstractAsyncContextManager[CaRepository]]
"""Opens a transaction that commits when its block ends and rolls back when it raises."""
