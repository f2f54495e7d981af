"""Operators of the Common Expression Language on values (cel-spec, doc/langdef.md, "Overloads")."""

import operator
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from app.cel.values import (
    MAX_TEXT,
    Budget,
    EvaluationError,
    ExhaustedError,
    Optional,
    UInt,
    bounded,
    bounded_duration,
    is_number,
    name_of,
    same,
)

Apply = Callable[..., Any]
"""Takes the budget of the evaluation and the operands, and returns the value.

Raises EvaluationError if it has none, ExhaustedError at a bound.
"""

_MISTYPED = "a value has another type than the expression needs"
_ORDERED: tuple[Any, ...] = (str, bytes, bool, datetime, timedelta)


def of(value: Any, kind: Any) -> Any:
    """Return the value. Raises EvaluationError if it is of another kind; a bool is no number."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise EvaluationError(_MISTYPED)
    return value


def boolean(value: object) -> bool:
    """Return the bool. Raises EvaluationError if it is none."""
    if value is True or value is False:
        return value
    raise EvaluationError(_MISTYPED)


def element(budget: Budget, operand: Any, key: Any) -> Any:
    """Return an element of a list or a map. Raises EvaluationError if it is missing."""
    found = maybe_element(budget, operand, key)
    if isinstance(operand, Optional):
        return found
    if not found.present:
        raise EvaluationError(f"a key or an element is missing: {key!r:.80}")
    return found.value


def maybe_element(_budget: Budget, operand: Any, key: Any) -> Optional:
    """Return an element of a list or a map if it is there."""
    if isinstance(operand, Optional):
        return maybe_element(_budget, operand.value, key) if operand.present else operand
    if isinstance(operand, Mapping):
        if not isinstance(key, str | int | float):
            raise EvaluationError(_MISTYPED)
        number = int(key) if isinstance(key, float) and key.is_integer() else key
        found = operand.get(number, _MISSING)
        wrong = found is _MISSING or (isinstance(key, bool) is not isinstance(_key(operand, number), bool))
        return Optional() if wrong else Optional(found, present=True)
    of(operand, (list, tuple))
    if isinstance(key, float) and key.is_integer():
        key = int(key)
    place = of(key, int)
    return Optional(operand[place], present=True) if 0 <= place < len(operand) else Optional()


def has(_budget: Budget, operand: Any, key: str) -> bool:
    """Return whether a map has a key."""
    if isinstance(operand, Optional):
        return operand.present and has(_budget, operand.value, key)
    return key in of(operand, Mapping)


def _key(mapping: Mapping[Any, Any], key: Any) -> Any:
    """Return the key as the map has it: to Python `True` and `1` are one."""
    if key in {0, 1}:
        return next((each for each in mapping if each == key), key)
    return key


_MISSING = object()


def _compared(compare: Callable[[Any, Any], bool]) -> Apply:
    def apply(budget: Budget, left: Any, right: Any) -> bool:
        if is_number(left) and is_number(right):
            return compare(left, right)
        if not isinstance(left, _ORDERED) or name_of(left) != name_of(right):
            raise EvaluationError(_MISTYPED)
        budget.take_for(left)
        return compare(left, right)

    return apply


def _contained(budget: Budget, value: Any, container: Any) -> bool:
    if isinstance(container, Mapping):
        return maybe_element(budget, container, value).present
    return any(same(budget, value, each) for each in of(container, (list, tuple)))


def _numbers(left: Any, right: Any) -> None:
    if not is_number(left) or name_of(left) != name_of(right):
        raise EvaluationError(_MISTYPED)


def _added(budget: Budget, left: Any, right: Any) -> Any:
    budget.take_for(left, right)
    match left, right:
        case (str(), str()) | (bytes(), bytes()):
            return bounded_size(left + right)
        case (list() | tuple(), list() | tuple()):
            return bounded_size([*left, *right])
        case datetime(), timedelta():
            return _moved(left, right)
        case timedelta(), datetime():
            return _moved(right, left)
        case timedelta(), timedelta():
            return bounded_duration((left + right).total_seconds())
    _numbers(left, right)
    return _number(left, left + right)


def _subtracted(_budget: Budget, left: Any, right: Any) -> Any:
    match left, right:
        case datetime(), timedelta():
            return _moved(left, -right)
        case (datetime(), datetime()) | (timedelta(), timedelta()):
            return bounded_duration((left - right).total_seconds())
    _numbers(left, right)
    return _number(left, left - right)


def _moved(time: datetime, by: timedelta) -> datetime:
    try:
        return time + by
    except OverflowError as error:
        raise EvaluationError("a timestamp is beyond the year 9999") from error


def _number(kind: Any, number: Any) -> Any:
    return bounded(UInt(number) if isinstance(kind, UInt) and number >= 0 else _negative(kind, number))


def _negative(kind: Any, number: Any) -> Any:
    if isinstance(kind, UInt):
        raise EvaluationError("an unsigned number is negative")
    return number


def _calculated(calculate: Callable[[Any, Any], Any]) -> Apply:
    def apply(_budget: Budget, left: Any, right: Any) -> Any:
        _numbers(left, right)
        try:
            return _number(left, calculate(left, right))
        except ArithmeticError as error:
            raise EvaluationError("a number cannot be calculated") from error

    return apply


def _divided(left: Any, right: Any) -> Any:
    """Return the quotient, of integers without what is after the point."""
    if isinstance(left, float):
        if right == 0:
            return float("nan") if left == 0 or left != left else float("inf") * left * _sign(right)  # noqa: PLR0124 - NaN
        return left / right
    return abs(left) // abs(right) * (1 if (left < 0) is (right < 0) else -1)


def _sign(zero: float) -> float:
    return -1.0 if str(zero).startswith("-") else 1.0


def _remainder(left: Any, right: Any) -> Any:
    return of(left, int) - right * _divided(left, right)


def _negated(_budget: Budget, value: Any) -> Any:
    if isinstance(value, UInt) or not is_number(value):
        raise EvaluationError(_MISTYPED)
    return bounded(-value)


def bounded_size(value: Any) -> Any:
    """Return the text or list. Raises ExhaustedError if it is too long."""
    if len(value) > MAX_TEXT:
        raise ExhaustedError(f"a value is longer than {MAX_TEXT} characters or items")
    return value


def _map(_budget: Budget, *entries: Any) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for key, value in zip(entries[::2], entries[1::2], strict=True):
        if not isinstance(key, str | int) or key in found:
            raise EvaluationError("a map has a key twice, or one that is no text, number or bool")
        found[key] = value
    return found


OPERATORS: dict[str, Apply] = {
    "[]": element,
    ".": element,
    "[?]": maybe_element,
    ".?": maybe_element,
    "has": has,
    "list": lambda _budget, *items: list(items),
    "map": _map,
    "!": lambda _budget, value: not boolean(value),
    "negative": _negated,
    "==": same,
    "!=": lambda budget, left, right: not same(budget, left, right),
    "<": _compared(operator.lt),
    "<=": _compared(operator.le),
    ">": _compared(operator.gt),
    ">=": _compared(operator.ge),
    "in": _contained,
    "+": _added,
    "-": _subtracted,
    "*": _calculated(operator.mul),
    "/": _calculated(_divided),
    "%": _calculated(_remainder),
}
