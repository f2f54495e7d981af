"""Both families of rate limit headers."""

import pytest

from app.quota.model import Code, RateLimit, Status, Unit
from app.quota.rpc.headers import HeaderStyle, headers_of

MINUTE = Status(Code.OK, RateLimit(Unit.MINUTE, 10, "burst"), remaining=4, reset_seconds=30)
DAY = Status(Code.OK, RateLimit(Unit.DAY, 1000), remaining=3, reset_seconds=500)
FREE = Status(Code.OK)


def test_draft_03_reports_the_tightest_limit_and_every_policy():
    assert headers_of(HeaderStyle.DRAFT03, (MINUTE, FREE, DAY)) == (
        ("x-ratelimit-limit", '1000, 10;w=60;name="burst", 1000;w=86400'),
        ("x-ratelimit-remaining", "3"),
        ("x-ratelimit-reset", "500"),
    )


def test_the_ietf_form_names_every_policy():
    assert headers_of(HeaderStyle.IETF, (MINUTE, FREE, DAY)) == (
        ("ratelimit-policy", '"burst";q=10;w=60, "per-day";q=1000;w=86400'),
        ("ratelimit", '"per-day";r=3;t=500'),
    )


def test_policies_with_the_same_name_are_numbered():
    headers = dict(headers_of(HeaderStyle.IETF, (DAY, DAY._replace(remaining=1), MINUTE)))
    assert headers["ratelimit-policy"] == '"per-day";q=1000;w=86400, "per-day-2";q=1000;w=86400, "burst";q=10;w=60'
    assert headers["ratelimit"] == '"per-day-2";r=1;t=500'


def test_both_sends_both_and_off_none():
    assert headers_of(HeaderStyle.BOTH, (MINUTE,)) == (
        *headers_of(HeaderStyle.DRAFT03, (MINUTE,)),
        *headers_of(HeaderStyle.IETF, (MINUTE,)),
    )
    assert headers_of(HeaderStyle.OFF, (MINUTE,)) == ()


@pytest.mark.parametrize("style", list(HeaderStyle))
def test_without_a_limit_there_are_no_headers(style):
    assert headers_of(style, (FREE,)) == ()
