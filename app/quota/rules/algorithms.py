"""The fields of a rate_limit that choose its algorithm and its window."""

from zoneinfo import ZoneInfo

from app.core.durations import parse_duration
from app.core.errors import InvalidInputError
from app.documents.reader import Reader
from app.quota.model import (
    MAX_UINT32,
    Algorithm,
    Away,
    CalendarWindow,
    Concurrency,
    FixedWindow,
    RateLimit,
    SlidingLog,
    SlidingWindow,
    TokenBucket,
    Total,
    Unit,
)
from app.quota.rules.fields import read_integer

# The times of all hits are kept: in Valkey they are read and written with each one.
MAX_LOG_REQUESTS = 1000
# The longest window, in seconds: a leap year. Milliseconds in it, times requests, are computed without rounding.
MAX_SECONDS = 366 * 24 * 60 * 60

_UNITS = {unit.name: unit for unit in Unit}
_DATES = (Unit.DAY, Unit.WEEK, Unit.MONTH, Unit.YEAR)
_FIXED, _SLIDING, _LOG, _BUCKET, _CONCURRENCY, _TOTAL = _ALGORITHMS = (
    "fixed_window",
    "sliding_window",
    "sliding_log",
    "token_bucket",
    "concurrency",
    "total",
)


def algorithm_of(limit: RateLimit) -> Algorithm:
    """Return how `limit` is counted."""
    return limit.algorithm or FixedWindow(limit.requests_per_unit, limit.seconds)


def counter_kind(limit: RateLimit) -> str:
    """Return what of the limit its counters depend on: with another kind they start again."""
    algorithm = limit.algorithm
    if algorithm is None:
        return limit.unit.name if limit.unit else ""
    zone = f" {algorithm.zone}" if isinstance(algorithm, CalendarWindow) else ""
    return f"{type(algorithm).__name__} {algorithm.seconds}{zone}"


def read_window(limit: Reader, requests: int) -> tuple[Unit | None, Algorithm | None]:
    """Return the unit, if the window is one, and the algorithm, None for fixed windows of that unit.

    Noted as problems: an unknown algorithm, neither or both of unit and duration, a field that the algorithm does not
    have, and numbers beyond its bounds. Then what is returned is that of a configuration that is not used.
    """
    name = _choice(limit, "algorithm", _ALGORITHMS)
    if name == _TOTAL:
        for field in ("unit", "duration"):
            _only(limit, field, "a limit that never starts again has none")
    unit, seconds = (None, 1) if name == _TOTAL else _read_length(limit)
    zone = _read_zone(limit, name, unit)
    burst = _read_burst(limit, name, requests)
    match name:
        case "sliding_window":
            return unit, SlidingWindow(requests, seconds)
        case "sliding_log":
            if requests > MAX_LOG_REQUESTS:
                limit.refuse("requests_per_unit", f"must be at most {MAX_LOG_REQUESTS} with sliding_log")
            return unit, SlidingLog(requests, seconds)
        case "token_bucket":
            return unit, TokenBucket(requests, seconds, burst)
        case "concurrency":
            return unit, Concurrency(requests, seconds)
        case "total":
            return None, Total(requests)
    if zone and unit:
        return unit, CalendarWindow(requests, unit, zone)
    return unit, None if unit else FixedWindow(requests, seconds)


def read_away(limit: Reader, algorithm: Algorithm | None) -> Away:
    """Return how the limit is answered while the counters cannot be reached."""
    away = Away(_choice(limit, "when_away", tuple(each.value for each in Away)))
    if away is Away.LEASE and isinstance(algorithm, Concurrency):
        limit.refuse("when_away", "must be deny or allow with concurrency, whose slots are given back")
    return away


def _choice(limit: Reader, name: str, choices: tuple[str, ...]) -> str:
    """Return the optional text at `name`, the first of `choices` if it is absent or wrong."""
    text = limit.text(name)
    if text is not None and text not in choices:
        limit.refuse(name, f"must be one of {', '.join(choices)}")
    return text if text in choices else choices[0]


def _read_length(limit: Reader) -> tuple[Unit | None, int]:
    if not limit.has("duration"):
        unit = _read_unit(limit)
        return unit, unit.seconds
    _only(limit, "unit", "is given by the duration")
    text = limit.text("duration")
    try:
        seconds = parse_duration(text or "").total_seconds()
    except InvalidInputError as error:
        limit.refuse("duration", error.message)
        return None, 1
    if seconds % 1 or seconds > MAX_SECONDS:
        limit.refuse("duration", f"must be whole seconds, {MAX_SECONDS // 86_400} days at most")
    return None, int(seconds)


def _read_unit(limit: Reader) -> Unit:
    """Return the unit; with a problem noted it is seconds, in a configuration that is not used."""
    text = limit.take("unit")
    unit = _UNITS.get(text.upper()) if isinstance(text, str) else None
    if unit is None:
        units = ", ".join(unit.name.lower() for unit in Unit)
        limit.refuse("unit", f"{'is not a unit of time' if limit.has('unit') else 'is required'}; use one of {units}")
    return unit or Unit.SECOND


def _read_zone(limit: Reader, algorithm: str, unit: Unit | None) -> str:
    zone = limit.text("time_zone")
    if zone is None:
        return ""
    if algorithm != _FIXED or unit not in _DATES:
        limit.refuse("time_zone", "needs fixed_window and the unit day, week, month or year")
    try:
        ZoneInfo(zone)
    except (ValueError, OSError, KeyError):
        limit.refuse("time_zone", "is not a time zone that this machine knows, such as Europe/Zurich")
    return zone


def _read_burst(limit: Reader, algorithm: str, requests: int) -> int:
    if algorithm != _BUCKET:
        _only(limit, "burst", "needs the algorithm token_bucket")
        return 0
    limit.take("burst")
    return read_integer(limit, "burst", 1, MAX_UINT32) if limit.has("burst") else requests


def _only(limit: Reader, field: str, problem: str) -> None:
    if limit.has(field):
        limit.refuse(field, f"must not be set: {problem}")
    limit.take(field)
