"""Refused requests: each is counted, and logged within a bound on lines."""

import structlog

from app.telemetry.families import Counter

# Refused requests can be as many as a client likes to send: of each reason so many are logged between two reports.
MAX_LINES = 10
REPORT_SECONDS = 60.0

_log = structlog.get_logger(__name__)


class Refusals(Counter):
    """Counts refused requests by surface and reason, words from the code, and logs the first between two `report`s."""

    def __init__(self) -> None:
        super().__init__("meshward_refusals", "Requests refused, by surface and reason", ("surface", "reason"))
        self._since_report: dict[tuple[str, str], int] = {}

    def record(self, surface: str, refusal: str, **facts: str) -> None:
        """Count a refusal, and log it with `facts` unless MAX_LINES of its surface and reason have been logged."""
        labels = surface, refusal
        self.add(labels)
        number = self._since_report[labels] = self._since_report.get(labels, 0) + 1
        if number <= MAX_LINES:
            _log.warning("request_refused", surface=surface, refusal=refusal, **facts)

    def report(self) -> None:
        """Log how many refusals of each surface and reason were not logged since the last report."""
        for (surface, reason), number in self._since_report.items():
            if number > MAX_LINES:
                _log.warning("refusals_left_out", surface=surface, refusal=reason, left_out=number - MAX_LINES)
        self._since_report.clear()
