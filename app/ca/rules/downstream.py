"""Signing certificates for other Meshwards: who may have one, how long, and how deep it may sign."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509

from app.ca.model import CaConfig, DownstreamPolicy
from app.ca.rules.csr import parse_csr
from app.ca.rules.profile import authority_builder
from app.ca.rules.rotation import validity
from app.core.errors import PermissionDeniedError, UnauthenticatedError
from app.spiffe.keys import SubjectKey
from app.spiffe.principal import Credential, Principal

REFUSED = "downstream"


@dataclass(frozen=True, slots=True)
class AuthorityProfile:
    """What is asked for and granted: the key, the life, and how many authorities may stand beneath."""

    public_key: SubjectKey
    not_before: datetime
    not_after: datetime
    path_length: int


def policy_of(caller: Principal, policies: Sequence[DownstreamPolicy]) -> DownstreamPolicy:
    """Return what a caller may have. Raises UnauthenticatedError without an SVID, PermissionDeniedError without one."""
    if caller.credential is not Credential.SVID or caller.spiffe_id is None:
        raise UnauthenticatedError("a signing certificate is for callers with an SVID", reason=REFUSED)
    for policy in policies:
        if policy.spiffe_id == caller.spiffe_id:
            return policy
    raise PermissionDeniedError(
        f"{caller.spiffe_id} may not have a signing certificate: it is not in ca.downstreams of this control plane",
        reason=REFUSED,
    )


def authority_profile(
    csr: str, seconds: int, policy: DownstreamPolicy, issuer: Sequence[x509.Certificate], now: datetime
) -> AuthorityProfile:
    """Return what is granted for a request (PEM) under the certificates of an issuer, its own first.

    A life of zero seconds or less, or one above the policy's, is the policy's; it ends with the issuer's. Raises
    InvalidInputError for the request.
    """
    public_key = parse_csr(csr).public_key
    longest = policy.max_ttl.total_seconds()
    ttl = timedelta(seconds=min(seconds, longest) if seconds > 0 else longest)
    start = max(each.not_valid_before_utc for each in issuer)
    end = min(each.not_valid_after_utc for each in issuer)
    not_before, not_after = validity(now, ttl, start, end)
    depth = min((policy.max_path_length, *_room(issuer)))
    return AuthorityProfile(public_key, not_before, not_after, depth)


def downstream_builder(
    profile: AuthorityProfile, issuer: x509.Certificate, config: CaConfig, serial: int
) -> x509.CertificateBuilder:
    """Return the builder of the signing certificate."""
    life = (profile.not_before, profile.not_after)
    return authority_builder(
        config.trust_domain,
        profile.public_key,
        serial,
        life,
        issuer,
        profile.path_length,
        organization=config.organization,
    )


def path_limit(authority: x509.Certificate) -> int | None:
    """Return how many authorities may stand beneath one, None if any number (RFC 5280, section 4.2.1.9)."""
    return authority.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length


def may_sign_authorities(issuer: Sequence[x509.Certificate]) -> bool:
    """Whether an authority may stand beneath an issuer, by the limits of its own certificate and those above it."""
    return all(room >= 0 for room in _room(issuer))


def _room(issuer: Sequence[x509.Certificate]) -> list[int]:
    """Return how many authorities may stand beneath a new one, by each certificate that limits it."""
    # A root that signs itself is in the sequence twice: as the issuer, and as the root.
    limits = [path_limit(each) for each in dict.fromkeys(issuer)]
    return [limit - 1 - between for between, limit in enumerate(limits) if limit is not None]
