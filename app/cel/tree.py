"""The tree of an expression of the Common Expression Language (cel-spec, doc/langdef.md)."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant: a bool, int, `UInt`, float, str, bytes or None."""

    value: object


@dataclass(frozen=True, slots=True)
class Name:
    """A variable, of the request or of a macro."""

    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """An operator, a function, a method or what is written out, applied to `arguments`.

    `[]` is an element, `.` a field; `[?]` and `.?` are those that may be missing. `list` has its items and `map` its
    keys and values in turns. `has` is a field that may be missing. `place` is where in the text it is, from 0.
    """

    function: str
    arguments: tuple["Expression", ...]
    place: int = 0


@dataclass(frozen=True, slots=True)
class Macro:
    """`all`, `exists`, `exists_one`, `filter` or `map`: `variable` is each element of `over` in `body`.

    `map` may have a `condition`, which the elements have to meet.
    """

    kind: str
    variable: str
    over: "Expression"
    body: "Expression"
    condition: "Expression | None" = None
    place: int = 0


Expression = Literal | Name | Call | Macro


def inner(expression: Expression) -> tuple[Expression, ...]:
    """Return the expressions that it is made of."""
    match expression:
        case Call(_, arguments):
            return arguments
        case Macro(_, _, over, body, condition):
            return (over, body) if condition is None else (over, condition, body)
        case _:
            return ()


def fields_read(expression: Expression, bound: frozenset[str] = frozenset()) -> Iterator[tuple[str, ...]]:
    """Yield the paths of the variables' fields that are read: `("request", "path")`, or one that is read whole."""
    path = path_of(expression)
    if path:
        if path[0] not in bound:
            yield path
        return
    match expression:
        case Call(".", (operand, Literal())) | Call(".?", (operand, Literal())):
            yield from fields_read(operand, bound)
        case Macro(_, variable, over, body, condition):
            yield from fields_read(over, bound)
            for each in (body,) if condition is None else (condition, body):
                yield from fields_read(each, bound | {variable})
        case _:
            for each in inner(expression):
                yield from fields_read(each, bound)


def path_of(expression: Expression) -> tuple[str, ...]:
    """Return the path of a field with constant names, `request.headers["x"]`; of another expression an empty one."""
    match expression:
        case Name(name):
            return (name,)
        case Call("." | "[]" | ".?" | "[?]" | "has", (operand, Literal(str() as name))):
            before = path_of(operand)
            return (*before, name) if before else ()
        case _:
            return ()
