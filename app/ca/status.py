"""What operators see of the CA at one replica."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from app.ca.model import AuthorityStage, Root, Signer, SigningRequest
from app.spiffe.id import SpiffeId, TrustDomain


@dataclass(frozen=True, slots=True)
class PlugInStatus:
    """The plug-in CA at this replica: the authority of the files in `directory` that were accepted last, at `read_at`.

    `problem` is why the files that are there now are refused, None if they are not.
    """

    directory: str
    layout: str | None = None
    signer_id: str | None = None
    root_id: str | None = None
    read_at: datetime | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class UpstreamStatus:
    """The upstream of this replica, and the SPIFFE ID that it knows it by, until the SVID ends.

    `problem` is why it has not signed, or its bundle is not followed, None if there is nothing wrong.
    """

    server: str
    spiffe_id: SpiffeId | None = None
    svid_not_after: datetime | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class CaStatus:
    """The state of the CA at this replica. `signer_id` is the authority it uses; if None, `waiting_for` is why.

    `root_id` is the active root, None if there is none; `stages` has that of each root, and of the signing authorities
    that are tainted. `problems` have to be put right by an operator, although SVIDs are issued.
    """

    trust_domain: TrustDomain
    roots: tuple[Root, ...]
    signers: tuple[Signer, ...]
    stages: tuple[AuthorityStage, ...]
    unapproved: tuple[SigningRequest, ...]
    root_id: str | None
    root_key_held: bool
    signer_id: str | None
    waiting_for: str | None
    default_ttl: timedelta
    max_ttl: timedelta
    problems: tuple[str, ...] = ()
    plug_in: PlugInStatus | None = None
    upstream: UpstreamStatus | None = None

    @property
    def ready(self) -> bool:
        """Whether this replica can issue."""
        return self.waiting_for is None
