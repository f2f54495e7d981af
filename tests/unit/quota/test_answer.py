"""From the outcome of each counter to the answer to a request."""

from dataclasses import replace

import pytest

from app.quota.model import MAX_UINT32, Code, FixedWindow, Modes, Outcome, RateLimit, Unit, Unlimited
from app.quota.rules.answer import answer_of, judge
from app.quota.rules.match import MatchedDescriptor, MatchedRequest, hits_of
from app.quota.rules.tree import AppliedLimit

LIMIT = RateLimit(Unit.MINUTE, 10)
ALLOWED, REFUSED = Outcome(True, 4, 30), Outcome(False, 0, 30)
COUNTED = AppliedLimit(LIMIT, "minute", FixedWindow(10, 60))
FREE = AppliedLimit(Unlimited(), "free", None)


def answered(limits, outcomes, **modes):
    descriptors = tuple(MatchedDescriptor(limit) for limit in limits)
    return answer_of(MatchedRequest("edge", True, descriptors), outcomes, Modes(**modes))


def test_a_status_has_its_limit_and_the_outcome():
    assert judge(LIMIT, ALLOWED) == (Code.OK, LIMIT, 4, 30, True)
    assert judge(LIMIT, REFUSED) == (Code.OVER_LIMIT, LIMIT, 0, 30, True)


def test_a_shadow_limit_counts_and_passes():
    shadow = RateLimit(Unit.MINUTE, 10, shadow_mode=True)
    status = judge(shadow, REFUSED)
    assert (status.code, status.limit, status.remaining) == (Code.OK, shadow, 0)


def test_a_status_shows_that_the_count_is_not_exact():
    status = judge(LIMIT, REFUSED._replace(exact=False))
    assert (status.code, status.exact) == (Code.OVER_LIMIT, False)


def test_unlimited_and_no_limit_pass_without_a_limit_to_report():
    answer = answered([None, FREE], [])
    assert answer.statuses == ((Code.OK, None, 0, 0, True), (Code.OK, None, MAX_UINT32, 0, True))


def test_outcomes_belong_to_the_descriptors_that_are_counted_in_order():
    answer = answered([None, COUNTED, FREE, COUNTED], [REFUSED, ALLOWED])
    assert [status.limit for status in answer.statuses] == [None, LIMIT, None, LIMIT]
    assert [status.code for status in answer.statuses] == [Code.OK, Code.OVER_LIMIT, Code.OK, Code.OK]
    assert answer.code is Code.OVER_LIMIT


def test_one_descriptor_over_its_limit_is_enough():
    assert answered([COUNTED] * 2, [ALLOWED] * 2).code is Code.OK
    assert answered([COUNTED] * 3, [ALLOWED, REFUSED, ALLOWED]).code is Code.OVER_LIMIT


def test_a_limit_in_quota_mode_passes_and_is_a_violation():
    quota = replace(COUNTED, limit=replace(LIMIT, quota_mode=True))
    answer = answered([COUNTED, FREE, quota, quota], [ALLOWED, REFUSED, ALLOWED])
    assert (answer.code, answer.violations, answer.statuses[2].code) == (Code.OK, (2,), Code.OK)
    assert answered([COUNTED, quota], [REFUSED, REFUSED]).violations == (1,)
    assert answered([COUNTED, quota], [REFUSED, REFUSED]).code is Code.OVER_LIMIT


def test_a_limit_in_shadow_mode_is_no_violation():
    both = replace(COUNTED, limit=replace(LIMIT, quota_mode=True, shadow_mode=True))
    assert answered([both], [REFUSED]).violations == ()


def test_quota_mode_for_all_limits_makes_each_of_them_pass():
    answer = answered([COUNTED, COUNTED], [REFUSED, ALLOWED], quota=True)
    assert (answer.code, answer.violations, answer.shadowed) == (Code.OK, (0,), False)


def test_shadow_mode_for_all_limits_changes_the_overall_code_alone():
    answer = answered([COUNTED, COUNTED], [REFUSED, ALLOWED], shadow=True)
    assert (answer.code, answer.statuses[0].code, answer.shadowed) == (Code.OK, Code.OVER_LIMIT, True)
    assert not answered([COUNTED], [ALLOWED], shadow=True).shadowed


@pytest.mark.parametrize(
    ("descriptor", "request_hits", "expected"),
    [(None, 0, 1), (None, 1, 1), (None, 5, 5), (0, 5, 0), (3, 5, 3), (0, 0, 0)],
)
def test_a_descriptors_own_hits_come_first_and_zero_is_a_probe(descriptor, request_hits, expected):
    assert hits_of(descriptor, request_hits) == expected
