"""Durations are read back as they were written, and hostile text is refused with InvalidInputError alone."""

from contextlib import suppress
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from app.core.durations import MAX_DURATION, MIN_DURATION, format_duration, parse_duration
from app.core.errors import InvalidInputError

MILLISECOND = timedelta(milliseconds=1)


@given(st.integers(MIN_DURATION // MILLISECOND, MAX_DURATION // MILLISECOND).map(lambda count: count * MILLISECOND))
def test_a_duration_is_read_back(duration):
    assert parse_duration(format_duration(duration)) == duration


@given(st.text() | st.text("0123456789smhd:[]."))
def test_anything_else_is_refused(text):
    with suppress(InvalidInputError):
        assert MIN_DURATION <= parse_duration(text) <= MAX_DURATION
