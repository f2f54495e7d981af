"""The secrets that the control plane serves over SDS and on its own listeners: SVIDs with keys generated here."""

import random
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import structlog

from app.ca.model import Surface
from app.ca.service.authorities import Authorities
from app.ca.service.issuance import Issuance
from app.core.clock import Clock
from app.core.errors import InternalError, PreconditionError, ResourceExhaustedError, UnavailableError
from app.core.signals import Wait, wait_beyond
from app.spiffe.bundle import TrustBundle
from app.spiffe.principal import Credential, Principal
from app.spiffe.renewal import renewal_time
from app.spiffe.x509_svid import WorkloadSvid

# How long to wait before a failed renewal is tried again, while the SVID in use is still valid.
RENEWAL_RETRY = timedelta(seconds=5)
# The wall clock may be set during a wait, so it is read this often.
MAX_WAIT_SECONDS = 60.0

Issue = Callable[[], Awaitable[WorkloadSvid]]

log = structlog.get_logger(__name__)


def _random_jitter() -> float:
    return random.uniform(-1, 1)  # noqa: S311 - spreads load, protects nothing


class IssuedSecrets:
    """A SecretSource over the CA, for callers and for the control plane's own listeners."""

    def __init__(
        self,
        issuance: Issuance,
        authorities: Authorities,
        clock: Clock,
        wait: Wait = wait_beyond,
        jitter: Callable[[], float] = _random_jitter,
    ) -> None:
        self._issuance, self._authorities, self._clock = issuance, authorities, clock
        self._wait, self._jitter = wait, jitter

    def open(self, caller: Principal, *, once: bool = False) -> "IssuedSecretSession":
        """Return the session of a stream that `caller` opened, `once` of one call. Nothing is issued until it asks."""
        surface = Surface.SDS_FETCH if once else Surface.SDS

        async def issue() -> WorkloadSvid:
            nonlocal caller
            svid = await self._issuance.issue_with_new_key(caller, surface)
            # The first SVID uses up a join token; from then on the SVID is the proof.
            caller = Principal(Credential.SVID, svid.spiffe_id)
            return svid

        return self._session(issue)

    def serving(self) -> "IssuedSecretSession":
        """Return the session of the control plane's own listeners."""
        return self._session(self._issuance.issue_serving)

    def _session(self, issue: Issue) -> "IssuedSecretSession":
        return IssuedSecretSession(issue, self._authorities, self._clock, self._wait, self._jitter)


class IssuedSecretSession:
    """A SecretSession whose SVID `issue` makes. It is used by one task at a time."""

    def __init__(
        self,
        issue: Issue,
        authorities: Authorities,
        clock: Clock,
        wait: Wait,
        jitter: Callable[[], float],
    ) -> None:
        self._issue, self._authorities = issue, authorities
        self._clock, self._wait, self._jitter = clock, wait, jitter
        self._svid: WorkloadSvid | None = None
        self._renew_at: datetime | None = None
        self._wake_at: datetime | None = None
        self._seen = authorities.changed.count

    async def svid(self) -> WorkloadSvid:
        """Return the caller's current SVID: issued on first use, renewed when it is due, withdrawn or not valid yet.

        A renewal that fails for a temporary reason is tried again later, as long as the SVID in use is valid. Raises
        UnauthenticatedError if the caller proves no identity, UnavailableError or PreconditionError if nothing can be
        issued now.
        """
        now = self._clock.now()
        self._seen = self._authorities.changed.count
        if self._svid is not None and self._is_good(self._svid, now):
            return self._svid
        try:
            self._svid = await self._issue()
        except (UnavailableError, PreconditionError, ResourceExhaustedError, InternalError) as error:
            if self._svid is None or now >= self._svid.not_after:
                raise
            log.warning("sds_renewal_failed", spiffe_id=str(self._svid.spiffe_id), reason=error.message)
            self._renew_at = self._wake_at = now + RENEWAL_RETRY
            return self._svid
        self._renew_at = self._wake_at = renewal_time(now, self._svid.not_after, self._jitter())
        return self._svid

    async def bundle(self) -> TrustBundle:
        """Return the current trust bundle. Raises UnavailableError before the CA has started."""
        self._seen = self._authorities.changed.count
        return self._authorities.bundle()

    async def wait_for_change(self) -> None:
        """Return once authorities have changed since a secret was asked for, or the SVID is due to be replaced.

        A due SVID wakes the caller once; one that does not ask for the next SVID is not woken again.
        """
        changed = self._authorities.changed
        while changed.count <= self._seen and (seconds := self._seconds_left()) > 0:
            await self._wait(changed, self._seen, min(seconds, MAX_WAIT_SECONDS))
        if self._seconds_left() <= 0:
            self._wake_at = None

    def _is_good(self, svid: WorkloadSvid, now: datetime) -> bool:
        if self._renew_at is None or self._authorities.is_withdrawn(svid.chain):
            return False
        return svid.not_before <= now < self._renew_at

    def _seconds_left(self) -> float:
        if self._wake_at is None or self._svid is None:
            return MAX_WAIT_SECONDS
        now = self._clock.now()
        # An SVID of a clock that was ahead is due as well: no peer accepts it yet.
        return (self._wake_at - now).total_seconds() if now >= self._svid.not_before else 0.0
