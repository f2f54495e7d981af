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
    code = _OK
    statuses = []
    counted = iter(outcomes)
    for applied in limits:
        if applied is None:
            status = NOT_LIMITED
        elif isinstance(applied.limit, RateLimit):
            status = judge(applied.limit, next(counted))
            if status.code is _OVER_LIMIT:
                code = _OVER_LIMIT
        else:
            status = UNLIMITED
        statuses.append(status)
    return Answer(code, tuple(statuses), domain_known=True)


def judge(limit: RateLimit, outcome: Outcome) -> Status:
    """Return the answer to a descriptor that was counted under `limit`: in shadow mode what is over it passes."""
    allowed, remaining, reset_seconds, counted = outcome
    return Status(_OK if allowed or limit.shadow_mode else _OVER_LIMIT, limit, remaining, reset_seconds, counted)
