"""How long an SVID lives at most, and when it is renewed."""

from datetime import datetime, timedelta

# What Istio's CA issues at most: there is no revocation, and nobody waits longer for a certificate to expire.
MAX_SVID_TTL = timedelta(days=90)
# Half of the lifetime, plus or minus a tenth of that, so that a fleet that started together does not renew together.
RENEWAL_SHARE = 0.5
RENEWAL_JITTER = 0.1


def renewal_time(since: datetime, not_after: datetime, jitter: float) -> datetime:
    """Return when to renew a certificate: at half of the time from `since`, shifted by `jitter` in -1.0 to 1.0."""
    return since + (not_after - since) * (RENEWAL_SHARE * (1 + RENEWAL_JITTER * jitter))
