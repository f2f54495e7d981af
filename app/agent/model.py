"""The values of the agent: the identity that it holds and what it authenticates with."""

from dataclasses import dataclass, field

from app.spiffe.bundle import TrustBundle
from app.spiffe.x509_svid import WorkloadSvid


@dataclass(frozen=True, slots=True)
class Identity:
    """What the agent holds for its workload: the SVID with its key, and the bundle that vouches for its peers."""

    svid: WorkloadSvid
    bundle: TrustBundle


@dataclass(frozen=True, slots=True)
class JoinToken:
    """Proof of a first enrolment. Single use."""

    secret: str = field(repr=False)
