"""The lifetime of certificates, and when a signing certificate is replaced."""

from datetime import datetime, timedelta

from app.ca.model import CLOCK_DIFFERENCE
from app.core.errors import InvalidInputError, Violation

# Certificates are valid from this long before they are issued, for replicas and peers whose clocks are behind.
BACKDATE = CLOCK_DIFFERENCE
# A signing certificate is replaced when less than this share of its lifetime is left.
SIGNER_RENEWAL_SHARE = 1 / 3


def granted_ttl(requested_seconds: int, entry: timedelta | None, default: timedelta, maximum: timedelta) -> timedelta:
    """Return the lifetime to grant.

    If `requested_seconds` is zero or less it is that of the entry, else the default. The lifetime in an entry is also
    the upper bound. Raises InvalidInputError if there is none in an entry and the request is above `maximum`.
    """
    if requested_seconds <= 0:
        return entry or min(default, maximum)
    if entry is not None:
        return timedelta(seconds=min(requested_seconds, entry.total_seconds()))
    if requested_seconds > maximum.total_seconds():
        problem = f"{requested_seconds} s is above the maximum of {int(maximum.total_seconds())} s"
        raise InvalidInputError(f"the requested validity is refused: {problem}", Violation("ttl_seconds", problem))
    return timedelta(seconds=requested_seconds)


def validity(
    now: datetime, ttl: timedelta, issuer_not_before: datetime, issuer_not_after: datetime
) -> tuple[datetime, datetime]:
    """Return notBefore and notAfter of a certificate issued now, within its issuer's, in the whole seconds of X.509."""
    not_before = max(now - BACKDATE, issuer_not_before).replace(microsecond=0)
    return not_before, min(now + ttl, issuer_not_after).replace(microsecond=0)


def signer_is_due(now: datetime, not_before: datetime, not_after: datetime, root_not_after: datetime) -> bool:
    """Whether a signing certificate is due: less than a third is left, and a new one would last longer."""
    return now > not_after - (not_after - not_before) * SIGNER_RENEWAL_SHARE and not_after < root_not_after
