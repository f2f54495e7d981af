"""The values of the CA: authorities, issued SVIDs, join tokens, entries."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from app.core.errors import PermissionDeniedError
from app.spiffe.bans import BANNED
from app.spiffe.bundle import TrustBundle
from app.spiffe.id import SCHEME, SpiffeId, TrustDomain

# A secret that can be used for longer than a day is a password.
MAX_JOIN_TOKEN_TTL = timedelta(hours=24)
# How far the clocks of replicas may differ.
CLOCK_DIFFERENCE = timedelta(minutes=10)
# Serial numbers and ids of authorities, by which the transparency log is searched.
SUBJECT_LENGTH = 64


class KeyAlgorithm(Enum):
    """The kinds of key that an authority signs with."""

    P256 = "ec-p256"
    P384 = "ec-p384"
    P521 = "ec-p521"
    ED25519 = "ed25519"
    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"


class Stage(Enum):
    """Where an authority is in its life, in the words of SPIRE's local authorities.

    PREPARED is in the trust bundle and does not sign; ACTIVATING will once everybody has the bundle; ACTIVE signs; OLD
    was active before, and what it signed is good; VERIFY_ONLY is in the bundle, and there is nothing here that signs
    under it; TAINTED is in the bundle still, and all that it signed is replaced; REVOKED is not in the bundle.
    """

    PREPARED = "prepared"
    ACTIVATING = "activating"
    ACTIVE = "active"
    OLD = "old"
    VERIFY_ONLY = "verify-only"
    TAINTED = "tainted"
    REVOKED = "revoked"


class Origin(Enum):
    """Where an authority is from whose key is not made here."""

    PLUG_IN = "plug-in"
    UPSTREAM = "upstream"


class CrlOverSds(Enum):
    """Whether sidecars get revocation lists. AUTO: while no root is trusted but our own, as others may issue there."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class OnTimeout(Enum):
    """What becomes of an activation that not everybody was ready for in time."""

    REFUSE = "refuse"
    PROCEED = "proceed"


@dataclass(frozen=True, slots=True)
class RotationConfig:
    """When the root is replaced by itself, at shares of the life of the active one, and how long activation waits.

    Without `prepare_at` it is replaced by hand.
    """

    prepare_at: float | None = 0.8
    activate_at: float = 0.9
    timeout: timedelta = timedelta(hours=24)
    on_timeout: OnTimeout = OnTimeout.REFUSE


class Surface(Enum):
    """The API that an SVID was requested through: SDS is a stream, SDS_FETCH one call for secrets."""

    ISTIO_CA = "istio_ca"
    SDS = "sds"
    SDS_FETCH = "sds_fetch"
    SERVING = "serving"


@dataclass(frozen=True, slots=True)
class DownstreamPolicy:
    """What another Meshward may have: a signing certificate for so long, with so many authorities beneath it."""

    spiffe_id: SpiffeId
    max_ttl: timedelta
    max_path_length: int


@dataclass(frozen=True, slots=True)
class CaConfig:
    """The CA's settings.

    `default_ttl` is for callers that request none; `max_ttl` bounds what they may request without an entry. The
    control plane's own SVID has the server names and addresses, and no entry may have one of these names. An identity
    is issued `svids_per_hour` at this replica, and as many at once. Under `crl_url`, which SVIDs then name, are the
    revocation lists by the id of their authority. By `crl_over_sds` sidecars get them with the trust bundle.
    `downstreams` are the Meshwards that may have a signing certificate of this one. The names of authorities have the
    `organization`, the trust domain if there is none.
    """

    trust_domain: TrustDomain
    server_dns_names: tuple[str, ...] = ()
    server_addresses: tuple[IPv4Address | IPv6Address, ...] = ()
    key_algorithm: KeyAlgorithm = KeyAlgorithm.P256
    root_ttl: timedelta = timedelta(days=3650)
    signer_ttl: timedelta = timedelta(days=365)
    default_ttl: timedelta = timedelta(hours=24)
    max_ttl: timedelta = timedelta(hours=24)
    svids_per_hour: int = 1000
    crl_url: str | None = None
    crl_over_sds: CrlOverSds = CrlOverSds.AUTO
    rotation: RotationConfig = RotationConfig()
    downstreams: tuple[DownstreamPolicy, ...] = ()
    organization: str | None = None


@dataclass(frozen=True, slots=True)
class Root:
    """A root of the trust domain. `generation` counts them from 1; `certificate` is PEM.

    One that is not our own has an `origin`.
    """

    id: str
    generation: int
    trust_domain: TrustDomain
    certificate: str
    not_before: datetime
    not_after: datetime
    created_at: datetime
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class Signer:
    """A signing authority under the root `root_id`, which has issued its certificate (PEM).

    One from outside may have `intermediates` between it and the root, its issuer first. From `not_before` to
    `not_after` all of them are valid.
    """

    id: str
    root_id: str
    certificate: str
    not_before: datetime
    not_after: datetime
    intermediates: tuple[str, ...] = ()

    @property
    def chain(self) -> tuple[str, ...]:
        """The certificates that follow a leaf."""
        return (self.certificate, *self.intermediates)


@dataclass(frozen=True, slots=True)
class AuthorityStage:
    """The stage of an authority, `since` when. `number` counts the changes of all authorities from 1."""

    id: str
    stage: Stage
    number: int
    since: datetime


class Behind(NamedTuple):
    """A stream that has not accepted the trust bundle, and why its client refused it, if it did."""

    spiffe_id: str
    address: str
    node: str
    problem: str


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """What a replica reports of the streams that its trust bundle, of the version `bundle`, goes to.

    `behind` are the first of those that have not accepted it, `behind_count` is how many these are. `up_to_date` has a
    digest of each identity all of whose streams have, and `signers` the authorities that the replica can sign with.
    `beat` grows with each report.
    """

    id: str
    beat: int
    bundle: str
    streams: int
    behind_count: int
    behind: tuple[Behind, ...]
    up_to_date: bytes
    signers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Acknowledgements:
    """Who has accepted the trust bundle with a root, and who has not.

    `identities` got their bundle with a certificate, and not on a stream, before the root was in it, and have not come
    back since; each list has the first of those that are counted. `replicas` have no signing authority under the root
    yet, or another bundle.
    """

    streams: int
    behind_count: int
    behind: tuple[Behind, ...]
    identities_count: int
    identities: tuple[SpiffeId, ...]
    replicas: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether nobody is waited for."""
        return not (self.behind_count or self.identities_count or self.replicas)


@dataclass(frozen=True, slots=True)
class KnownAuthorities:
    """Every root, the newest last; the signing authorities under them, the last to end first; the stages of both."""

    roots: tuple[Root, ...]
    signers: tuple[Signer, ...]
    stages: tuple[AuthorityStage, ...] = ()


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """A signing authority without a certificate yet. `request` is its CSR, in PEM, to the root `root_id`."""

    id: str
    root_id: str
    request: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class IssuedSvid:
    """The record of one issued SVID. `serial` is hexadecimal; `fingerprint` the SHA-256 of the DER, hexadecimal.

    `number` grows with every issuance of the database; it is None until the record is stored.
    """

    serial: str
    spiffe_id: SpiffeId
    signer_id: str
    fingerprint: str
    not_before: datetime
    not_after: datetime
    issued_at: datetime
    surface: Surface
    token_id: str | None = None
    number: int | None = None


@dataclass(frozen=True, slots=True)
class IssuedChain:
    """An issued SVID: `chain` is PEM, leaf first, then each intermediate; `bundle` has the roots that verify it."""

    spiffe_id: SpiffeId
    chain: tuple[str, ...]
    bundle: TrustBundle
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class IssuedAuthority:
    """A signing authority of another Meshward: `chain` is PEM, its certificate, then each one up to the root."""

    chain: tuple[str, ...]
    bundle: TrustBundle


@dataclass(frozen=True, slots=True)
class JoinToken:
    """A token that proves one identity once. Only the SHA-256 of its secret is stored."""

    id: str
    spiffe_id: SpiffeId
    created_at: datetime
    expires_at: datetime
    redeemed_at: datetime | None = None

    def usable(self, now: datetime) -> bool:
        """Whether the token still proves its identity. One that lasts longer than a token may never does."""
        lasts = self.expires_at - self.created_at <= MAX_JOIN_TOKEN_TTL and self.created_at <= now + CLOCK_DIFFERENCE
        return lasts and self.redeemed_at is None and self.expires_at > now


@dataclass(frozen=True, slots=True)
class CreatedJoinToken:
    """A new join token with its secret, which is shown this once."""

    token: JoinToken
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class EntrySpec:
    """What an operator sets for an identity: lifetime and DNS names of its SVIDs, and a hint for its holder.

    `x509_svid_ttl` is granted to callers that request no lifetime, and is the most that they may request; None leaves
    both to the settings.
    """

    spiffe_id: SpiffeId
    x509_svid_ttl: timedelta | None = None
    dns_names: tuple[str, ...] = ()
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(EntrySpec):
    """A stored entry. `version` counts its changes from 1."""

    id: str
    version: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Ban:
    """A ban of an identity, of every identity below a path (`spiffe://example.org/ns/shop/*`), or of a certificate.

    `subject` is one of these, a certificate by its serial number, which is then revoked. A ban without an end stays
    until it is lifted.
    """

    id: str
    subject: str
    reason: str
    created_at: datetime
    expires_at: datetime | None

    def active(self, now: datetime) -> bool:
        """Whether the ban has not ended."""
        return self.expires_at is None or now < self.expires_at

    @property
    def refusal(self) -> PermissionDeniedError:
        """Why a caller is refused."""
        what = "is banned" if self.subject.startswith(SCHEME) else "is the serial number of a revoked certificate"
        return PermissionDeniedError(f"{self.subject} {what}: {self.reason}", reason=BANNED)


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of a Kubernetes cluster; `node` is empty while it is on none."""

    uid: str
    service_account: str
    node: str
