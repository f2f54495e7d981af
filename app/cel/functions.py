"""Functions and methods of the Common Expression Language (cel-spec, doc/langdef.md, "List of Standard Definitions").

The methods on texts that are not of the standard (`lowerAscii` and those after it) are those of cel-go's extension.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from app.cel.operators import Apply, bounded_size, of
from app.cel.values import (
    NONE,
    Budget,
    EvaluationError,
    ExhaustedError,
    Optional,
    Type,
    UInt,
    bounded,
    duration_of,
    is_number,
    name_of,
    timestamp_of,
)

_OFFSET = re.compile(r"([+-]?)([0-9]{2}):([0-9]{2})")
_INTEGER = re.compile(r"-?[0-9]{1,20}")
_DOUBLE = re.compile(
    r"[+-]?(?:[0-9]{1,64}(?:\.[0-9]{0,64})?|\.[0-9]{1,64})(?:[eE][+-]?[0-9]{1,4})?|[+-]?(?:NaN|Infinity)"
)
_TRUE = frozenset({"1", "t", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "false", "FALSE", "False"})
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Function:
    """A function, and how many arguments it may have; a method has its operand as the first."""

    numbers: tuple[int, ...]
    apply: Apply


def _size(_budget: Budget, value: Any) -> int:
    return len(of(value, (str, bytes, list, tuple, Mapping)))


def _int(_budget: Budget, value: Any) -> int:
    if isinstance(value, datetime):
        return int(value.timestamp() // 1)
    if isinstance(value, str) and not _INTEGER.fullmatch(value):
        raise EvaluationError("a text is no integer")
    return int(bounded(_integer(value)))


def _uint(_budget: Budget, value: Any) -> UInt:
    if isinstance(value, str) and not _INTEGER.fullmatch(value):
        raise EvaluationError("a text is no integer")
    number = _integer(value)
    found: UInt = bounded(UInt(number)) if number >= 0 else bounded(number - number)
    if number < 0:
        raise EvaluationError("an unsigned number is negative")
    return found


def _integer(value: Any) -> int:
    try:
        return int(of(value, (str, int, float)))
    except (ValueError, OverflowError) as error:
        raise EvaluationError("a value is no integer") from error


def _double(_budget: Budget, value: Any) -> float:
    if isinstance(value, str) and not _DOUBLE.fullmatch(value):
        raise EvaluationError("a text is no number")
    return float(of(value, (str, int, float)))


def as_text(_budget: Budget, value: Any) -> str:
    """Return the text of a value. Raises EvaluationError for what has none."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return value
        case int():
            return str(int(value))
        case float():
            return str(int(value)) if value.is_integer() and abs(value) < _LARGE else str(value)
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError as error:
                raise EvaluationError("bytes are no text") from error
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case timedelta():
            return f"{value / timedelta(seconds=1):.6f}".rstrip("0").rstrip(".") + "s"
        case _:
            raise EvaluationError("a value has no text")


# From here on a double is written with an exponent.
_LARGE = 1e21


def _bool(_budget: Budget, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value in _TRUE or value in _FALSE:
        return value in _TRUE
    raise EvaluationError("a value is neither true nor false")


def _bytes(_budget: Budget, value: Any) -> bytes:
    return value if isinstance(value, bytes) else of(value, str).encode("utf-8", "surrogatepass")


def _duration(_budget: Budget, value: Any) -> timedelta:
    return value if isinstance(value, timedelta) else duration_of(of(value, str))


def _timestamp(_budget: Budget, value: Any) -> datetime:
    if isinstance(value, datetime):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return datetime.fromtimestamp(value, UTC)
        except (ValueError, OverflowError, OSError) as error:
            raise EvaluationError("a timestamp is beyond the year 9999") from error
    return timestamp_of(of(value, str))


def _on_text(apply: Callable[..., Any]) -> Apply:
    """Return the function on texts, which takes time for all of them."""

    def applied(budget: Budget, *texts: Any) -> Any:
        budget.take_for(*texts)
        return apply(*[of(each, str) for each in texts])

    return applied


def _split(budget: Budget, text: Any, separator: Any) -> list[str]:
    budget.take_for(text)
    found = of(text, str).split(separator) if of(separator, str) else list(text)
    budget.take(len(found))
    return found


def _join(budget: Budget, texts: Any, separator: Any = "") -> str:
    found = [of(each, str) for each in of(texts, (list, tuple))]
    budget.take_for(found, *found)
    text = of(separator, str).join(found) if sum(map(len, found)) + len(found) * len(separator) < _LONGEST else None
    if text is None:
        raise ExhaustedError("a text is too long")
    return str(bounded_size(text))


_LONGEST = 1 << 20


def _substring(budget: Budget, text: Any, start: Any, end: Any = None) -> str:
    budget.take_for(text)
    last = len(of(text, str)) if end is None else of(end, int)
    if not 0 <= of(start, int) <= last <= len(text):
        raise EvaluationError("a part of a text is outside it")
    return str(text[start:last])


def _ascii(change: Callable[[str], str]) -> Callable[[str], str]:
    return lambda text: "".join(change(each) if each.isascii() else each for each in text)


def _date(read: Callable[[datetime], int]) -> Function:
    def apply(_budget: Budget, value: Any, zone: Any = "UTC") -> int:
        return read(of(value, datetime).astimezone(_zone(of(zone, str))))

    return Function((1, 2), apply)


def _time(read: Callable[[datetime], int], whole: timedelta) -> Function:
    """Return a part of a timestamp, or a duration in so many units."""

    def apply(_budget: Budget, value: Any, zone: Any = "UTC") -> int:
        if isinstance(value, timedelta):
            return int(value / whole)
        return read(of(value, datetime).astimezone(_zone(of(zone, str))))

    return Function((1, 2), apply)


def _zone(name: str) -> timezone:
    if name == "UTC":
        return UTC
    found = _OFFSET.fullmatch(name)
    if found is None:
        raise EvaluationError("a time zone is not UTC and no offset such as +02:00")
    offset = timedelta(hours=int(found[2]), minutes=int(found[3]))
    if offset >= timedelta(days=1):
        raise EvaluationError("a time zone is more than a day away")
    return timezone(-offset if found[1] == "-" else offset)


def _value(_budget: Budget, value: Any) -> Any:
    if not of(value, Optional).present:
        raise EvaluationError("an optional value is missing")
    return value.value


def _or_value(_budget: Budget, value: Any, otherwise: Any) -> Any:
    return value.value if of(value, Optional).present else otherwise


_STANDARD: dict[str, Function] = {
    "size": Function((1,), _size),
}
FUNCTIONS: dict[str, Function] = _STANDARD | {
    "int": Function((1,), _int),
    "uint": Function((1,), _uint),
    "double": Function((1,), _double),
    "string": Function((1,), as_text),
    "bool": Function((1,), _bool),
    "bytes": Function((1,), _bytes),
    "duration": Function((1,), _duration),
    "timestamp": Function((1,), _timestamp),
    "dyn": Function((1,), lambda _budget, value: value),
    "type": Function((1,), lambda _budget, value: Type(name_of(value))),
    "optional.none": Function((0,), lambda _budget: NONE),
    "optional.of": Function((1,), lambda _budget, value: Optional(value, present=True)),
    "math.isNaN": Function((1,), lambda _budget, value: is_number(value) and value != value),  # noqa: PLR0124 - NaN
}
METHODS: dict[str, Function] = _STANDARD | {
    "startsWith": Function((2,), _on_text(str.startswith)),
    "endsWith": Function((2,), _on_text(str.endswith)),
    "contains": Function((2,), _on_text(str.__contains__)),
    "matches": Function((2,), _on_text(str.__eq__)),
    "getFullYear": _date(lambda at: at.year),
    "getMonth": _date(lambda at: at.month - 1),
    "getDate": _date(lambda at: at.day),
    "getDayOfMonth": _date(lambda at: at.day - 1),
    "getDayOfWeek": _date(lambda at: at.isoweekday() % 7),
    "getDayOfYear": _date(lambda at: at.timetuple().tm_yday - 1),
    "getHours": _time(lambda at: at.hour, timedelta(hours=1)),
    "getMinutes": _time(lambda at: at.minute, timedelta(minutes=1)),
    "getSeconds": _time(lambda at: at.second, timedelta(seconds=1)),
    "getMilliseconds": _time(lambda at: at.microsecond // 1000, timedelta(milliseconds=1)),
    "value": Function((1,), _value),
    "orValue": Function((2,), _or_value),
    "or": Function((2,), lambda _budget, one, other: one if of(one, Optional).present else of(other, Optional)),
    "hasValue": Function((1,), lambda _budget, value: of(value, Optional).present),
    "lowerAscii": Function((1,), _on_text(_ascii(str.lower))),
    "upperAscii": Function((1,), _on_text(_ascii(str.upper))),
    "trim": Function((1,), _on_text(str.strip)),
    "indexOf": Function((2,), _on_text(str.find)),
    "split": Function((2,), _split),
    "join": Function((1, 2), _join),
    "substring": Function((2, 3), _substring),
}
