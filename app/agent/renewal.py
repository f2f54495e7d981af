"""When to ask for a certificate: a state machine without I/O.

Wall-clock times decide what a certificate is worth; waits between attempts run on the monotonic clock, so that a clock
that is set back does not stretch them.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum

from app.spiffe.renewal import renewal_time

# Certificates with next to no life left must not make the agent ask without a pause.
MIN_RENEWAL_INTERVAL = timedelta(seconds=1)
# All agents of a mesh are told at once that an authority is tainted.
HURRY_SPREAD = timedelta(seconds=2)
# Waits between failed attempts, in seconds: doubled from the first up to the last, and cut by up to this share.
FIRST_BACKOFF = 0.5
LAST_BACKOFF = 60.0
BACKOFF_JITTER = 0.25
# Doublings after which the longest wait is reached; keeps the power small however long an outage lasts.
MAX_DOUBLINGS = 10
# The longest single wait: a machine that slept, or whose clock was set, is noticed after this many seconds.
MAX_WAIT = 30.0


class Need(Enum):
    """What is to be done. TOKEN: nothing can be done without a new join token; it is looked for after the wait."""

    WAIT = "wait"
    ENROL = "enrol"
    RENEW = "renew"
    TOKEN = "token"  # noqa: S105 - a step, not a secret


@dataclass(frozen=True, slots=True)
class Action:
    """The next thing to do; `seconds` is how long to wait for WAIT and TOKEN, else 0."""

    need: Need
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Renewal:
    """What the next step follows from.

    `not_after` and `renew_at` belong to the SVID that is held, None if there is none; `failures` counts the attempts
    since the last success, and `retry_at` (monotonic seconds) is when the next one may start.
    """

    not_after: datetime | None = None
    renew_at: datetime | None = None
    failures: int = 0
    retry_at: float = 0.0

    def held(self, not_after: datetime, now: datetime, chance: float, since: datetime | None = None) -> "Renewal":
        """Return the state with an SVID that ends at `not_after`; `chance` in [0, 1) spreads renewals over time.

        `since` is when its life began if that was before `now`, as that of an SVID that was saved.
        """
        half_time = renewal_time(min(since or now, now), not_after, 2 * chance - 1)
        renew_at = max(half_time, now + MIN_RENEWAL_INTERVAL)
        return Renewal(not_after, renew_at)

    def hurried(self, now: datetime, chance: float) -> "Renewal":
        """Return the state in which the SVID is due at once; `chance` in [0, 1) spreads renewals of a mesh a little."""
        if self.renew_at is None:
            return self
        return replace(self, renew_at=min(self.renew_at, now + chance * HURRY_SPREAD))

    def failed(self, tick: float, chance: float) -> "Renewal":
        """Return the state after a failed attempt at `tick`; `chance` in [0, 1) spreads attempts over time."""
        wait = min(FIRST_BACKOFF * 2 ** min(self.failures, MAX_DOUBLINGS), LAST_BACKOFF)
        return replace(self, failures=self.failures + 1, retry_at=tick + wait * (1 - BACKOFF_JITTER * chance))

    def expired(self, now: datetime) -> bool:
        """Whether an SVID was held and has ended."""
        return self.not_after is not None and now >= self.not_after

    def next(self, now: datetime, tick: float, *, token: bool) -> Action:
        """Return the next thing to do at `now` (wall clock) and `tick` (monotonic), `token` being there to redeem."""
        if self.not_after is None or self.renew_at is None or self.expired(now):
            if not token:
                return Action(Need.TOKEN, MAX_WAIT)
            return self._attempt(Need.ENROL, tick, MAX_WAIT)
        left = (self.not_after - now).total_seconds()
        if now < self.renew_at:
            return Action(Need.WAIT, min((self.renew_at - now).total_seconds(), left, MAX_WAIT))
        return self._attempt(Need.RENEW, tick, min(left, MAX_WAIT))

    def _attempt(self, need: Need, tick: float, longest: float) -> Action:
        if tick < self.retry_at:
            return Action(Need.WAIT, min(self.retry_at - tick, longest))
        return Action(need)
