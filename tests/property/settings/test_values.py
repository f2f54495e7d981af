"""Values of settings are read back as they were written, and hostile ones are refused with a ValueError alone."""

import contextlib
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from app.settings.values import MAX_DURATION, format_duration, parse_duration


@given(st.integers(0, MAX_DURATION // timedelta(milliseconds=1)).map(lambda n: timedelta(milliseconds=n)))
def test_a_duration_is_read_back(duration):
    assert parse_duration(format_duration(duration)) == duration


@given(st.text() | st.text("0123456789smhd:[].") | st.integers() | st.none() | st.binary())
def test_anything_else_is_refused_and_nothing_worse(value):
    with contextlib.suppress(ValueError):
        parse_duration(value)
