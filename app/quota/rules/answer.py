"""From the outcomes of counters to the answer to a request."""

from collections.abc import Sequence

from app.quota.model import MAX_UINT32, Answer, Code, Outcome, RateLimit, Status
from app.quota.rules.match import AppliedLimit

_OK, _OVER_LIMIT = Code.OK, Code.OVER_LIMIT
NOT_LIMITED = Status(_OK)
UNLIMITED = Status(_OK, remaining=MAX_UINT32)


def hits_of(descriptor_hits: int | None, request_hits: int) -> int:
    """Return what a descriptor counts: its own number if it has one, where 0 is a probe, else the request's, or 1."""
    return (request_hits or 1) if descriptor_hits is None else descriptor_hits


def answer_of(limits: Sequence[AppliedLimit | None], outcomes: Sequence[Outcome]) -> Answer:
    """Return the answer to a request by the limits of its descriptors, and the outcome of each one that is counted."""
    statuses = []
    counted = iter(outcomes)
    for applied in limits:
        if applied is None:
            statuses.append(NOT_LIMITED)
        elif isinstance(applied.limit, RateLimit):
            statuses.append(judge(applied.limit, next(counted)))
        else:
            statuses.append(UNLIMITED)
    return Answer(overall(statuses), tuple(statuses), domain_known=True)


def judge(limit: RateLimit, outcome: Outcome) -> Status:
    """Return the answer to a descriptor that was counted under `limit`: in shadow mode what is over it passes."""
    allowed, remaining, reset_seconds, counted = outcome
    return Status(_OK if allowed or limit.shadow_mode else _OVER_LIMIT, limit, remaining, reset_seconds, counted)


def overall(statuses: Sequence[Status]) -> Code:
    """Return the answer to a request: over the limit if any descriptor is."""
    for status in statuses:
        if status.code is _OVER_LIMIT:
            return _OVER_LIMIT
    return _OK
