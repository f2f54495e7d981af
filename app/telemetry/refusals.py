"""Refused requests: each is counted, and logged within a bound on lines."""

import time
from collections import Counter as Counts
from collections.abc import Callable

import structlog

from app.core.rates import Buckets, RateLimit
from app.telemetry.families import Counter

# Refused requests can be as many as a client likes to send: of each reason so many are logged between two reports.
MAX_LINES = 10
REPORT_SECONDS = 60.0
# Those that are audited are logged one by one. An address that has more refused than this attacks, or is broken, and a
# few thousand lines an hour tell that as well as all of them.
AUDITED_LINES = RateLimit(per_second=10, burst=200)

_log = structlog.get_logger(__name__)


class Refusals(Counter):
    """Counts refused requests by surface and reason, words from the code, and logs the first between two `report`s.

    `monotonic` gives seconds.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__("meshward_refusals", "Requests refused, by surface and reason", ("surface", "reason"))
        self._lines = Counts[tuple[str, str]]()
        self._left_out = Counts[tuple[str, str]]()
        self._audited = Buckets(monotonic)

    def record(self, surface: str, refusal: str, *, audited: str = "", **facts: str) -> None:
        """Count a refusal, and log it with `facts` unless MAX_LINES of its surface and reason have been logged.

        `audited` is the caller's address if each refusal is to be logged: AUDITED_LINES bounds those of an address.
        """
        labels = surface, refusal
        self.add(labels)
        if audited:
            within = not self._audited.take(audited, AUDITED_LINES)
        else:
            self._lines[labels] += 1
            within = self._lines[labels] <= MAX_LINES
        if within:
            _log.warning("request_refused", surface=surface, refusal=refusal, **facts)
        else:
            self._left_out[labels] += 1

    def report(self) -> None:
        """Log how many refusals of each surface and reason were not logged since the last report."""
        for (surface, reason), number in self._left_out.items():
            _log.warning("refusals_left_out", surface=surface, refusal=reason, left_out=number)
        self._lines.clear()
        self._left_out.clear()
