"""Values of the Common Expression Language, as Python has them, and what holds for all of them.

A bool, an int, a `UInt`, a float, a str, bytes, None, a list or tuple, a mapping, a datetime with a time zone for a
timestamp, a timedelta for a duration, a `Type`, an `Optional`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from app.core.errors import MeshwardError

MAX_INT = 2**63 - 1
MAX_UINT = 2**64 - 1
# Characters of a text that is put together, and items of a list.
MAX_TEXT = 64 * 1024
# Steps of one evaluation: a call or an element that is looked at is one, and so are 64 characters.
MAX_STEPS = 10_000
CHARACTERS_OF_A_STEP = 64

_DURATION = re.compile(r"([+-]?)((?:[0-9]{1,18}(?:\.[0-9]{0,9})?(?:h|ms|us|ns|m|s)){1,8})")
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?)(h|ms|us|ns|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_TIMESTAMP = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})"
)
# The most that the specification allows: about 10,000 years.
_MAX_DURATION = timedelta(seconds=315_576_000_000)


class EvaluationError(MeshwardError):
    """An expression has no value for a request: a key is missing, or a type does not fit."""


class ExhaustedError(MeshwardError):
    """An evaluation reached a bound: of its steps, or of a text or list that it puts together.

    It is no EvaluationError: `||`, `&&` and macros go on after those, and what was not evaluated could have decided.
    """


class UInt(int):
    """An unsigned integer."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Type:
    """What `type(x)` returns."""

    name: str


@dataclass(frozen=True, slots=True)
class Optional:
    """A value that may be missing: what `[?]` and `.?` return."""

    value: Any = None
    present: bool = False


NONE = Optional()


class Budget:
    """The steps that an evaluation may still take."""

    __slots__ = ("left",)

    def __init__(self, steps: int = MAX_STEPS) -> None:
        self.left = steps

    def take(self, steps: int = 1) -> None:
        """Take so many steps. Raises ExhaustedError if there are no more."""
        self.left -= steps
        if self.left < 0:
            raise ExhaustedError(f"it takes more than {MAX_STEPS} steps")

    def take_for(self, *values: Any) -> None:
        """Take the steps for looking at all of the texts and lists among the values."""
        for value in values:
            if isinstance(value, str | bytes):
                self.take(len(value) // CHARACTERS_OF_A_STEP)
            elif isinstance(value, list | tuple | Mapping):
                self.take(len(value))


# Each after those that it is one of: to Python a bool is an int.
_TYPES: tuple[tuple[Any, str], ...] = (
    (type(None), "null_type"),
    (bool, "bool"),
    (UInt, "uint"),
    (int, "int"),
    (float, "double"),
    (str, "string"),
    (bytes, "bytes"),
    (Mapping, "map"),
    ((list, tuple), "list"),
    (datetime, "google.protobuf.Timestamp"),
    (timedelta, "google.protobuf.Duration"),
    (Type, "type"),
    (Optional, "optional_type"),
)


def name_of(value: Any) -> str:
    """Return the name of a value's type."""
    for kind, name in _TYPES:
        if isinstance(value, kind):
            return name
    raise EvaluationError("a value has no type")


def is_number(value: Any) -> bool:
    """Whether it is an int, a uint or a double."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def same(budget: Budget, left: Any, right: Any) -> bool:
    """Return whether two values are equal: numbers of any type by their value, others only with their own type."""
    budget.take()
    if is_number(left) and is_number(right):
        return bool(left == right)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(same(budget, *pair) for pair in zip(left, right, strict=True))
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return len(left) == len(right) and all(
            key in right and same(budget, value, right[key]) for key, value in left.items()
        )
    if name_of(left) != name_of(right):
        return False
    budget.take_for(left)
    if isinstance(left, Optional):
        return left.present == right.present and same(budget, left.value, right.value)
    return bool(left == right)


def bounded(number: Any) -> Any:
    """Return the number. Raises EvaluationError if an integer is beyond 64 bits."""
    if isinstance(number, UInt):
        fits = 0 <= number <= MAX_UINT
    else:
        fits = not isinstance(number, int) or -MAX_INT - 1 <= number <= MAX_INT
    if not fits:
        raise EvaluationError("a number is beyond 64 bits")
    return number


def duration_of(text: str) -> timedelta:
    """Return the duration in a text like `1h30m` or `-1.5s`. Raises EvaluationError if it is none."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise EvaluationError("a text is no duration")
    seconds = math.fsum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(found[2]))
    return bounded_duration(seconds if found[1] != "-" else -seconds)


def bounded_duration(seconds: float) -> timedelta:
    """Return so many seconds. Raises EvaluationError beyond 10,000 years."""
    try:
        found = timedelta(seconds=seconds)
    except (OverflowError, ValueError) as error:
        raise EvaluationError("a duration is too long") from error
    if abs(found) > _MAX_DURATION:
        raise EvaluationError("a duration is too long")
    return found


def timestamp_of(text: str) -> datetime:
    """Return the time in a text (RFC 3339), to the microsecond. Raises EvaluationError if it is none."""
    found = _TIMESTAMP.fullmatch(text)
    if found is None:
        raise EvaluationError("a text is no timestamp")
    fraction = (found[2] or ".0")[1:7].ljust(6, "0")
    try:
        return datetime.fromisoformat(f"{found[1]}.{fraction}{found[3].replace('Z', '+00:00')}").astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise EvaluationError("a text is no timestamp") from error
