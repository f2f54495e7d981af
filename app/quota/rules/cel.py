"""A subset of the Common Expression Language (cel-spec, doc/langdef.md) for the conditions and variables of limits.

Numbers, strings, booleans, null and lists; `descriptors` and what is in it; `== != < <= > >= in && || ! ? :` and
`+ - * / %`; `has`, `size`, `int`, `double`, `string`, `startsWith`, `endsWith`, `contains`. Not in it are macros over
lists, regular expressions, maps, bytes, timestamps and durations: an expression with them is refused when it is read.
What is left takes time in proportion to its length and to that of the values that it names.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.core.errors import InvalidInputError, MeshwardError

# Characters of an expression, its tokens, and expressions inside each other: what calls itself stays shallow.
MAX_EXPRESSION = 2048
MAX_TOKENS = 256
MAX_DEPTH = 32
# Characters of a text that is put together, and the integers of CEL.
MAX_TEXT = 1024 * 1024
_INT_BOUND = 2**63

_TOKEN = re.compile(
    r"\s*(?:(?P<float>[0-9]+\.[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+)"
    r"|(?P<int>0x[0-9a-fA-F]+|[0-9]+)(?P<unsigned>[uU]?)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<quoted>\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*')"
    r"|(?P<sign>&&|\|\||==|!=|<=|>=|[-+*/%<>!?:.,()\[\]]))"
)
_ESCAPE = re.compile(r"\\(?:([abfnrtv\\?\"'`])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|(.))")
_ESCAPED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_RELATIONS = frozenset({"==", "!=", "<", "<=", ">", ">=", "in"})
_CONSTANTS: dict[str, object] = {"true": True, "false": False, "null": None}
_FUNCTIONS = frozenset({"size", "int", "double", "string"})
_METHODS = frozenset({"size", "startsWith", "endsWith", "contains"})
DESCRIPTORS = "descriptors"


class EvaluationError(MeshwardError):
    """An expression has no value for a request: a key that it names is missing, or a type does not fit."""


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant."""

    value: object


@dataclass(frozen=True, slots=True)
class Descriptors:
    """The variable `descriptors`: a list with a mapping of each descriptor's entries."""


@dataclass(frozen=True, slots=True)
class Call:
    """An operator, a function, an element (`[]`), `has` or a list, applied to `arguments`."""

    function: str
    arguments: tuple["Expression", ...]


Expression = Literal | Descriptors | Call
Bindings = Sequence[Mapping[str, str]]
"""The entries of each descriptor of a request, in its order."""


def parse_expression(text: str) -> Expression:
    """Return the expression. Raises InvalidInputError with what is wrong with it, and where."""
    if len(text) > MAX_EXPRESSION:
        raise InvalidInputError(f"is longer than {MAX_EXPRESSION} characters")
    tokens = list(_tokens(text))
    if len(tokens) > MAX_TOKENS:
        raise InvalidInputError(f"has more than {MAX_TOKENS} names, signs and values")
    parser = _Parser(tokens)
    found = parser.expression(0)
    parser.end()
    return found


def evaluate(expression: Expression, descriptors: Bindings) -> Any:
    """Return the value of an expression for a request. Raises EvaluationError if it has none."""
    match expression:
        case Literal(value):
            return value
        case Descriptors():
            return descriptors
        case Call("&&" | "||" as function, arguments):
            return _logical(function == "||", arguments, descriptors)
        case Call("?:", (condition, then, otherwise)):
            return evaluate(then if _boolean(evaluate(condition, descriptors)) else otherwise, descriptors)
        case Call("has", (operand, Literal(key))):
            return key in _of(evaluate(operand, descriptors), Mapping)
        case Call(function, arguments):
            return _APPLY[function](*[evaluate(each, descriptors) for each in arguments])


def equalities(expression: Expression) -> Iterator[tuple[int, str, str]]:
    """Yield each `descriptors[N].KEY == TEXT` that has to hold for `expression` to hold, as N, KEY and TEXT."""
    match expression:
        case Call("&&", arguments):
            for each in arguments:
                yield from equalities(each)
        case Call("==", (Literal(str()) as text, Call() as other)):
            yield from equalities(Call("==", (other, text)))
        case Call("==", (Call("[]", (Call("[]", (Descriptors(), Literal(place))), Literal(key))), Literal(text))):
            if isinstance(key, str) and isinstance(text, str) and isinstance(place, int):
                yield place, key, text


def as_text(value: object) -> str:
    """Return the text of a variable's value. Raises EvaluationError for what has none."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return value
        case int() | float():
            return str(value)
        case _:
            raise EvaluationError("has no text")


def _tokens(text: str) -> Iterator[tuple[str, Any, int]]:
    """Yield kind, value and place of each token."""
    place = 0
    stripped = text.rstrip()
    while place < len(stripped):
        found = _TOKEN.match(stripped, place)
        if found is None:
            raise InvalidInputError(f"cannot be read from character {place + 1} on: {stripped[place : place + 20]!r}")
        start, place = found.start(found.lastgroup or 0), found.end()
        if found["float"]:
            yield "literal", float(found["float"]), start
        elif found["int"]:
            number = int(found["int"], 0 if found["int"].startswith("0x") else 10)
            if number >= _INT_BOUND:
                raise InvalidInputError(f"has a number beyond 64 bits at character {start + 1}")
            yield "literal", number, start
        elif found["quoted"]:
            yield "literal", _unescaped(found["quoted"][1:-1]), start
        elif found["name"] in _CONSTANTS:
            yield "literal", _CONSTANTS[found["name"]], start
        else:
            yield ("name", found["name"], start) if found["name"] else ("sign", found["sign"], start)
    yield "end", None, len(stripped)


def _unescaped(text: str) -> str:
    def replace(found: re.Match[str]) -> str:
        simple, byte, unicode, other = found.groups()
        if other is not None:
            raise InvalidInputError(f"has an escape that is not supported: \\{other}")
        return _ESCAPED.get(simple, simple) if simple else chr(int(byte or unicode, 16))

    return _ESCAPE.sub(replace, text)


class _Parser:
    """Recursive descent over the tokens; `depth` bounds it."""

    def __init__(self, tokens: list[tuple[str, Any, int]]) -> None:
        self._tokens, self._next = tokens, 0

    def end(self) -> None:
        """Expect that nothing follows."""
        if self._tokens[self._next][0] != "end":
            raise self._unexpected()

    def expression(self, depth: int) -> Expression:
        """Read an expression that is inside `depth` others."""
        if depth > MAX_DEPTH:
            raise InvalidInputError(f"is nested deeper than {MAX_DEPTH}")
        condition = self._chain("||", lambda: self._chain("&&", lambda: self._relation(depth)))
        if not self._takes("?"):
            return condition
        then = self.expression(depth + 1)
        self._expect(":")
        return Call("?:", (condition, then, self.expression(depth + 1)))

    def _chain(self, operator: str, operand: Callable[[], Expression]) -> Expression:
        found = [operand()]
        while self._takes(operator):
            found.append(operand())
        return Call(operator, tuple(found)) if len(found) > 1 else found[0]

    def _relation(self, depth: int) -> Expression:
        return self._binary(_RELATIONS, lambda: self._sum(depth))

    def _sum(self, depth: int) -> Expression:
        return self._binary({"+", "-"}, lambda: self._binary({"*", "/", "%"}, lambda: self._unary(depth)))

    def _binary(self, operators: "frozenset[str] | set[str]", operand: Callable[[], Expression]) -> Expression:
        found = operand()
        while (kind := self._tokens[self._next])[0] != "literal" and kind[1] in operators:
            self._next += 1
            found = Call(kind[1], (found, operand()))
        return found

    def _unary(self, depth: int) -> Expression:
        if depth > MAX_DEPTH:
            raise InvalidInputError(f"is nested deeper than {MAX_DEPTH}")
        for sign, function in (("!", "!"), ("-", "negative")):
            if self._takes(sign):
                return Call(function, (self._unary(depth + 1),))
        found = self._primary(depth)
        while True:
            if self._takes("["):
                found = Call("[]", (found, self.expression(depth + 1)))
                self._expect("]")
            elif self._takes("."):
                found = self._member(found, self._name(), depth)
            else:
                return found

    def _member(self, operand: Expression, name: str, depth: int) -> Expression:
        if not self._takes("("):
            return Call("[]", (operand, Literal(name)))
        if name not in _METHODS:
            raise InvalidInputError(f"has a function that is not supported: {name}()")
        return Call(name, self._checked(name, (operand, *self._list(")", depth)), 1 if name == "size" else 2))

    def _primary(self, depth: int) -> Expression:
        kind, value, _ = self._tokens[self._next]
        if kind == "literal":
            self._next += 1
            return Literal(value)
        if self._takes("("):
            found = self.expression(depth + 1)
            self._expect(")")
            return found
        if self._takes("["):
            return Call("list", self._list("]", depth))
        name = self._name()
        if not self._takes("("):
            if name != DESCRIPTORS:
                raise InvalidInputError(f"has a variable that does not exist: {name}; there is {DESCRIPTORS}")
            return Descriptors()
        arguments = self._list(")", depth)
        if name == "has":
            return self._has(arguments)
        if name not in _FUNCTIONS:
            raise InvalidInputError(f"has a function that is not supported: {name}()")
        return Call(name, self._checked(name, arguments, 1))

    def _has(self, arguments: tuple[Expression, ...]) -> Expression:
        match arguments:
            case (Call("[]", (operand, Literal(str()) as key)),):
                return Call("has", (operand, key))
            case _:
                raise InvalidInputError("has has() of what is no field: write has(descriptors[0].key)")

    def _checked(self, name: str, arguments: tuple[Expression, ...], number: int) -> tuple[Expression, ...]:
        if len(arguments) != number:
            raise InvalidInputError(f"has {name}() with a wrong number of arguments")
        return arguments

    def _list(self, end: str, depth: int) -> tuple[Expression, ...]:
        found: list[Expression] = []
        while not self._takes(end):
            if found:
                self._expect(",")
            found.append(self.expression(depth + 1))
        return tuple(found)

    def _name(self) -> str:
        kind, value, _ = self._tokens[self._next]
        if kind != "name":
            raise self._unexpected()
        self._next += 1
        return str(value)

    def _takes(self, sign: str) -> bool:
        kind, value, _ = self._tokens[self._next]
        if kind == "literal" or value != sign:
            return False
        self._next += 1
        return True

    def _expect(self, sign: str) -> None:
        if not self._takes(sign):
            raise self._unexpected()

    def _unexpected(self) -> InvalidInputError:
        kind, value, place = self._tokens[self._next]
        what = "the end" if kind == "end" else repr(value)
        return InvalidInputError(f"has {what} where it cannot be, at character {place + 1}")


def _logical(decisive: bool, arguments: tuple[Expression, ...], descriptors: Bindings) -> bool:  # noqa: FBT001 - CEL's
    """Return the value of `&&` or `||`: what one operand decides stands, even if another has no value."""
    error: EvaluationError | None = None
    for each in arguments:
        try:
            if _boolean(evaluate(each, descriptors)) is decisive:
                return decisive
        except EvaluationError as found:
            error = found
    if error is not None:
        raise error
    return not decisive


def _of(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise EvaluationError("a value has another type than the expression needs")
    return value


def _boolean(value: object) -> bool:
    found: bool = _of(value, bool)
    return found


def _element(operand: Any, key: Any) -> Any:
    try:
        if isinstance(operand, Mapping):
            return operand[_of(key, str)]
        found = _of(operand, (list, tuple))
        place = _of(key, int)
        if place < 0:
            raise EvaluationError("an element is before the first")
        return found[place]
    except LookupError as error:
        raise EvaluationError("a key or an element is missing") from error


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    return bool(left == right)


def _compared(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def apply(left: Any, right: Any) -> bool:
        kind: Any = str if isinstance(left, str) else (int, float)
        return compare(_of(left, kind), _of(right, kind))

    return apply


def _contained(value: Any, container: Any) -> bool:
    if isinstance(container, Mapping):
        return value in container if isinstance(value, str) else False
    return any(_same(value, each) for each in _of(container, (list, tuple)))


def _added(left: Any, right: Any) -> Any:
    if isinstance(left, str):
        return _bounded_text(left + _of(right, str))
    if isinstance(left, list | tuple):
        return [*left, *_of(right, (list, tuple))]
    return _bounded(_of(left, (int, float)) + _of(right, (int, float)))


def _calculated(calculate: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def apply(left: Any, right: Any) -> Any:
        try:
            return _bounded(calculate(_of(left, (int, float)), _of(right, (int, float))))
        except ArithmeticError as error:
            raise EvaluationError("a number cannot be calculated") from error

    return apply


def _divided(left: Any, right: Any) -> Any:
    """Return the quotient, of integers without what is after the point."""
    if isinstance(left, int) and isinstance(right, int):
        return abs(left) // abs(right) * (1 if (left < 0) is (right < 0) else -1)
    return left / right


def _remainder(left: Any, right: Any) -> Any:
    _of(left, int), _of(right, int)
    return left - right * _divided(left, right)


def _bounded(number: Any) -> Any:
    if isinstance(number, int) and not -_INT_BOUND <= number < _INT_BOUND:
        raise EvaluationError("a number is beyond 64 bits")
    return number


def _bounded_text(text: str) -> str:
    if len(text) > MAX_TEXT:
        raise EvaluationError(f"a text is longer than {MAX_TEXT} characters")
    return text


def _integer(value: Any) -> int:
    try:
        if isinstance(value, str) and not re.fullmatch(r"-?[0-9]{1,19}", value):
            raise EvaluationError("a text is no integer")
        number: int = _bounded(int(_of(value, (str, int, float))))
    except (ValueError, OverflowError) as error:
        raise EvaluationError("a value is no integer") from error
    return number


def _double(value: Any) -> float:
    try:
        return float(_of(value, (str, int, float)))
    except (ValueError, OverflowError) as error:
        raise EvaluationError("a value is no number") from error


_APPLY: dict[str, Callable[..., Any]] = {
    "[]": _element,
    "list": lambda *items: list(items),
    "!": lambda value: not _boolean(value),
    "negative": lambda value: _bounded(-_of(value, (int, float))),
    "==": _same,
    "!=": lambda left, right: not _same(left, right),
    "<": _compared(lambda left, right: left < right),
    "<=": _compared(lambda left, right: left <= right),
    ">": _compared(lambda left, right: left > right),
    ">=": _compared(lambda left, right: left >= right),
    "in": _contained,
    "+": _added,
    "-": _calculated(lambda left, right: left - right),
    "*": _calculated(lambda left, right: left * right),
    "/": _calculated(_divided),
    "%": _calculated(_remainder),
    "size": lambda value: len(_of(value, (str, list, tuple, Mapping))),
    "int": _integer,
    "double": _double,
    "string": as_text,
    "startsWith": lambda text, start: _of(text, str).startswith(_of(start, str)),
    "endsWith": lambda text, end: _of(text, str).endswith(_of(end, str)),
    "contains": lambda text, part: _of(part, str) in _of(text, str),
}
