"""The values of the CA: what was issued, and what vouches for it."""

from dataclasses import dataclass, field
from datetime import datetime

from app.core.spiffe import SpiffeId, TrustDomain


@dataclass(frozen=True, slots=True)
class WorkloadSvid:
    """An X509-SVID together with its private key, as its owner holds it.

    `chain` is PEM, leaf first, then each intermediate; `private_key` is PEM, PKCS#8, and never shown.
    """

    spiffe_id: SpiffeId
    chain: tuple[str, ...]
    private_key: bytes = field(repr=False)
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """The root certificates (PEM, one each) that vouch for the SVIDs of a trust domain."""

    trust_domain: TrustDomain
    roots: tuple[str, ...]
