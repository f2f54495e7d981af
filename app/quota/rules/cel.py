"""Conditions and variables of limits, in the Common Expression Language (`app.cel`).

They are expressions over `descriptors`, a list with a mapping of each descriptor's entries.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.cel import functions, tree
from app.cel.program import Program
from app.cel.tree import Call, Literal, Name
from app.cel.values import Budget, EvaluationError, ExhaustedError
from app.core.errors import InvalidInputError

# limitador's own conditions are a line.
MAX_EXPRESSION = 2048
DESCRIPTORS = "descriptors"

Expression = Program
Bindings = Sequence[Mapping[str, str]]
"""The entries of each descriptor of a request, in its order."""

__all__ = [
    "Bindings",
    "EvaluationError",
    "ExhaustedError",
    "Expression",
    "as_text",
    "equalities",
    "evaluate",
    "parse_expression",
]


def parse_expression(text: str) -> Expression:
    """Return the expression. Raises InvalidInputError with what is wrong with it, and where."""
    if len(text) > MAX_EXPRESSION:
        raise InvalidInputError(f"is longer than {MAX_EXPRESSION} characters")
    return Program(text, (DESCRIPTORS,))


def evaluate(expression: Expression, descriptors: Bindings) -> Any:
    """Return the value of an expression for a request. Raises EvaluationError if it has none, ExhaustedError."""
    return expression.evaluate({DESCRIPTORS: descriptors})


def equalities(expression: Expression) -> Iterator[tuple[int, str, str]]:
    """Yield each `descriptors[N].KEY == TEXT` that has to hold for `expression` to hold, as N, KEY and TEXT."""
    return _equalities(expression.tree)


def _equalities(expression: tree.Expression) -> Iterator[tuple[int, str, str]]:
    match expression:
        case Call("&&", arguments):
            for each in arguments:
                yield from _equalities(each)
        case Call("==", (Literal(str()) as text, Call() as other)):
            yield from _equalities(Call("==", (other, text)))
        case Call(
            "==", (Call("[]" | ".", (Call("[]", (Name(), Literal(int(place)))), Literal(str(key)))), Literal(text))
        ):
            if isinstance(text, str) and not isinstance(place, bool) and place >= 0:
                yield place, key, text


def as_text(value: object) -> str:
    """Return the text of a variable's value. Raises EvaluationError for what has none."""
    return functions.as_text(Budget(), value)
