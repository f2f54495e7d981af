"""Durations as they are written in settings and on the command line: a number with its unit, `24h` or `1h30m`."""

import re
from datetime import timedelta

from app.core.errors import InvalidInputError

# Everything that is set takes seconds at least: intervals, lifetimes, periods of grace.
MIN_DURATION = timedelta(seconds=1)
# Ten years; a longer one is a typing error, and a far longer one no timedelta at all.
MAX_DURATION = timedelta(days=3660)

_DURATION = re.compile(r"(?:[0-9]{1,9}(?:ms|[smhd])){1,5}")
_PART = re.compile(r"([0-9]+)(ms|[smhd])")
_UNITS = {
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}


def parse_duration(text: str) -> timedelta:
    """Return the duration that `text` spells, MIN_DURATION to MAX_DURATION. Raises InvalidInputError."""
    if not _DURATION.fullmatch(text):
        raise InvalidInputError("must be a duration with its unit, such as 500ms, 30s, 15m, 24h or 90d")
    duration = sum((int(number) * _UNITS[unit] for number, unit in _PART.findall(text)), timedelta())
    if duration < MIN_DURATION:
        raise InvalidInputError("must be one second or more")
    if duration > MAX_DURATION:
        raise InvalidInputError(f"is longer than {MAX_DURATION.days} days")
    return duration


def format_duration(duration: timedelta) -> str:
    """Return the duration as it is written: `1h30m`."""
    parts, rest = [], duration
    for unit, size in _UNITS.items():
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
