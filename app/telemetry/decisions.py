"""The decision log: a line for a decision, with what it was about, within a bound on lines a second."""

from collections.abc import Callable, Mapping
from typing import Literal

import structlog

from app.core.decision import Decision, Outcome

Mode = Literal["off", "denied", "all"]

# Denied requests can be as many as a client likes to send; more lines than these a second are counted, not written.
MAX_LINES_PER_SECOND = 100

_ALLOW = Outcome.ALLOW
_log = structlog.get_logger(__name__)


class DecisionLog:
    """Writes the decisions that `mode` asks for: none, the denials, or all. `monotonic` gives seconds."""

    def __init__(self, mode: Mode, monotonic: Callable[[], float]) -> None:
        self._denied = mode != "off"
        self.allowed = mode == "all"
        """Whether requests that pass are written as well."""
        self._monotonic = monotonic
        self._second = 0
        self._lines = 0
        self._suppressed = 0

    def wants(self, decision: Decision) -> bool:
        """Whether `decision` is to be written, so that its facts are worth collecting.

        With the denials go the requests that an AUDIT policy matches and those that a dry run would deny.
        """
        if decision.outcome is _ALLOW and not self.allowed:
            observed = decision.observed
            return bool(observed) and self._denied and any(each.notable for each in observed)
        return self._denied

    def write(self, decision: Decision, facts: Mapping[str, str]) -> None:
        """Write a line with the decision and `facts`, and how many lines were left out since the last one."""
        second = int(self._monotonic())
        if second != self._second:
            self._second, self._lines = second, 0
        if self._lines >= MAX_LINES_PER_SECOND:
            self._suppressed += 1
            return
        self._lines += 1
        values = dict(facts) | {each.watch.value: str(each) for each in decision.observed}
        if self._suppressed:
            values["left_out"] = str(self._suppressed)
            self._suppressed = 0
        _log.info(
            "decision",
            decision=decision.outcome.value,
            reason=decision.reason,
            policy=decision.policy,
            rule=decision.rule,
            **values,
        )
