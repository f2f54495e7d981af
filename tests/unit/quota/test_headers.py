"""The families of rate limit headers, and which limit they report."""

import pytest

from app.quota.model import MAX_UINT32, Code, Concurrency, RateLimit, Status, Total, Unit
from app.quota.rpc.headers import HeaderFamily, HeaderOptions, headers_of

MINUTE = Status(Code.OK, RateLimit(Unit.MINUTE, 10, "burst"), remaining=4, reset_seconds=30)
DAY = Status(Code.OK, RateLimit(Unit.DAY, 1000), remaining=3, reset_seconds=500)
FREE = Status(Code.OK)
REFUSED = DAY._replace(code=Code.OVER_LIMIT, remaining=0)


def sent(family, *statuses, code=Code.OK):
    return headers_of(HeaderOptions((family,)), code, statuses)


def test_draft_03_reports_the_tightest_limit_and_every_policy():
    assert sent(HeaderFamily.DRAFT03, MINUTE, FREE, DAY) == (
        ("x-ratelimit-limit", '1000, 10;w=60;name="burst", 1000;w=86400'),
        ("x-ratelimit-remaining", "3"),
        ("x-ratelimit-reset", "500"),
    )


def test_the_ietf_form_names_every_policy():
    assert sent(HeaderFamily.IETF, MINUTE, FREE, DAY) == (
        ("ratelimit-policy", '"burst";q=10;w=60, "per-day";q=1000;w=86400'),
        ("ratelimit", '"per-day";r=3;t=500'),
    )


def test_policies_with_the_same_name_are_numbered():
    headers = dict(sent(HeaderFamily.IETF, DAY, DAY._replace(remaining=1), MINUTE))
    assert headers["ratelimit-policy"] == '"per-day";q=1000;w=86400, "per-day-2";q=1000;w=86400, "burst";q=10;w=60'
    assert headers["ratelimit"] == '"per-day-2";r=1;t=500'


def test_limits_without_a_window_have_none_and_no_time_to_wait_for():
    slots = Status(Code.OK, RateLimit(None, 5, algorithm=Concurrency(5, 60)), remaining=2, reset_seconds=60)
    used = Status(Code.OVER_LIMIT, RateLimit(None, 9, algorithm=Total(9)), remaining=0, reset_seconds=MAX_UINT32)
    assert sent(HeaderFamily.IETF, slots, MINUTE) == (
        ("ratelimit-policy", '"concurrent";q=5;qu="concurrent-requests", "burst";q=10;w=60'),
        ("ratelimit", '"concurrent";r=2;t=60'),
    )
    assert sent(HeaderFamily.IETF, used, code=Code.OVER_LIMIT) == (
        ("ratelimit-policy", '"total";q=9'),
        ("ratelimit", '"total";r=0'),
    )
    assert sent(HeaderFamily.DRAFT03, used, code=Code.OVER_LIMIT)[0] == ("x-ratelimit-limit", "9, 9")
    assert sent(HeaderFamily.RETRY_AFTER, used, code=Code.OVER_LIMIT) == ()
    assert sent(HeaderFamily.RETRY_AFTER, used, REFUSED, code=Code.OVER_LIMIT) == ()


def test_the_plain_form_has_a_number_each_under_the_names_that_are_set():
    assert sent(HeaderFamily.PLAIN, MINUTE, DAY) == (
        ("ratelimit-limit", "1000"),
        ("ratelimit-remaining", "3"),
        ("ratelimit-reset", "500"),
    )
    options = HeaderOptions((HeaderFamily.PLAIN,), "X-Limit", "X-Left", "X-Reset")
    assert headers_of(options, Code.OK, (MINUTE,)) == (("X-Limit", "10"), ("X-Left", "4"), ("X-Reset", "30"))


@pytest.mark.parametrize("statuses", [(MINUTE, REFUSED), (REFUSED, MINUTE)])
def test_the_limit_that_refused_is_reported_before_one_that_is_used_up(statuses):
    used_up = [status._replace(remaining=0) for status in statuses]
    assert sent(HeaderFamily.PLAIN, *used_up, code=Code.OVER_LIMIT)[0] == ("ratelimit-limit", "1000")
    assert ("ratelimit", '"per-day";r=0;t=500') in sent(HeaderFamily.IETF, *used_up, code=Code.OVER_LIMIT)


def test_of_several_limits_that_refused_the_one_that_resets_last_is_reported():
    statuses = [status._replace(code=Code.OVER_LIMIT, remaining=0) for status in (MINUTE, DAY, MINUTE)]
    assert sent(HeaderFamily.PLAIN, *statuses, code=Code.OVER_LIMIT)[2] == ("ratelimit-reset", "500")
    assert sent(HeaderFamily.RETRY_AFTER, *statuses, code=Code.OVER_LIMIT) == (("retry-after", "500"),)


def test_retry_after_is_sent_where_the_request_is_refused_alone():
    assert sent(HeaderFamily.RETRY_AFTER, MINUTE) == ()
    assert sent(HeaderFamily.RETRY_AFTER, REFUSED) == ()  # in shadow mode for all limits


def test_families_are_sent_in_their_order():
    families = HeaderFamily.IETF, HeaderFamily.DRAFT03
    assert headers_of(HeaderOptions(families), Code.OK, (MINUTE,)) == (
        *sent(HeaderFamily.IETF, MINUTE),
        *sent(HeaderFamily.DRAFT03, MINUTE),
    )
    assert headers_of(HeaderOptions(), Code.OK, (MINUTE,)) == ()


@pytest.mark.parametrize("family", list(HeaderFamily))
def test_without_a_limit_there_are_no_headers(family):
    assert sent(family, FREE, code=Code.OVER_LIMIT) == ()
