"""From the outcomes of counters to the answer to a request."""

from collections.abc import Sequence

from app.quota.model import MAX_UINT32, Answer, Code, Modes, Outcome, RateLimit, Status
from app.quota.rules.match import MatchedRequest
from app.quota.rules.tree import NO_MODES

_OK, _OVER_LIMIT = Code.OK, Code.OVER_LIMIT
NOT_LIMITED = Status(_OK)
UNLIMITED = Status(_OK, remaining=MAX_UINT32)


def answer_of(request: MatchedRequest, outcomes: Sequence[Outcome], modes: Modes = NO_MODES) -> Answer:
    """Return the answer to a request from the outcome of each of its hits."""
    code = _OK
    statuses: list[Status] = []
    violations: list[int] = []
    place = 0
    for applied, _, _ in request.descriptors:
        if applied is None:
            statuses.append(NOT_LIMITED)
            continue
        limit = applied.limit
        if not isinstance(limit, RateLimit):
            statuses.append(UNLIMITED)
            continue
        status = judge(limit, outcomes[place])
        place += 1
        if status.code is not _OK:
            if modes.quota or limit.quota_mode:
                violations.append(len(statuses))
                status = status._replace(code=_OK)
            else:
                code = _OVER_LIMIT
        statuses.append(status)
    shadowed = modes.shadow and code is _OVER_LIMIT
    return Answer(_OK if shadowed else code, tuple(statuses), request.domain_known, tuple(violations), shadowed)


def judge(limit: RateLimit, outcome: Outcome) -> Status:
    """Return the answer to a descriptor that was counted under `limit`: in shadow mode what is over it passes."""
    allowed, remaining, reset_seconds, exact = outcome
    return Status(_OK if allowed or limit.shadow_mode else _OVER_LIMIT, limit, remaining, reset_seconds, exact)
