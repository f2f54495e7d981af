"""The tree of an expression of the Common Expression Language, by recursive descent.

cel-spec, doc/langdef.md, "Syntax" and "Macros". Not in it are messages that are written out (`Type{field: value}`) and
macros with two variables: an expression with them is refused.
"""

import difflib
from collections.abc import Callable, Collection, Container

from app.cel.functions import FUNCTIONS, METHODS
from app.cel.lexer import MAX_DEPTH, Token, at, tokens_of
from app.cel.tree import Call, Expression, Literal, Macro, Name
from app.cel.values import MAX_INT
from app.core.errors import InvalidInputError

_RELATIONS = frozenset({"==", "!=", "<", "<=", ">", ">=", "in"})
_SUMS = frozenset({"+", "-"})
_PRODUCTS = frozenset({"*", "/", "%"})
_MACROS = frozenset({"all", "exists", "exists_one", "filter", "map"})
_WITH_CONDITION = 3


def parse(text: str, variables: tuple[str, ...]) -> Expression:
    """Return the tree of an expression over the variables.

    Raises InvalidInputError with what is wrong with it, and at which line and character.
    """
    parser = _Parser(text, variables)
    found = parser.expression(0)
    parser.end()
    return found


class _Parser:
    """The tokens, and how many were read; `depth` is how many expressions one is inside."""

    def __init__(self, text: str, variables: tuple[str, ...]) -> None:
        self._text, self._variables = text, variables
        self._tokens, self._next = tokens_of(text), 0
        self._bound: list[str] = []

    def end(self) -> None:
        """Expect that nothing follows."""
        if self._here.kind != "end":
            raise self._unexpected()

    def expression(self, depth: int) -> Expression:
        if depth > MAX_DEPTH:
            raise InvalidInputError(f"is nested deeper than {MAX_DEPTH}")
        condition = self._chain("||", lambda: self._chain("&&", lambda: self._relation(depth)))
        place = self._here.place
        if not self._takes("?"):
            return condition
        then = self.expression(depth + 1)
        self._expect(":")
        return Call("?:", (condition, then, self.expression(depth + 1)), place)

    @property
    def _here(self) -> Token:
        return self._tokens[self._next]

    def _chain(self, operator: str, operand: Callable[[], Expression]) -> Expression:
        place, found = self._here.place, [operand()]
        while self._takes(operator):
            found.append(operand())
        return Call(operator, tuple(found), place) if len(found) > 1 else found[0]

    def _relation(self, depth: int) -> Expression:
        return self._binary(_RELATIONS, lambda: self._sum(depth))

    def _sum(self, depth: int) -> Expression:
        return self._binary(_SUMS, lambda: self._binary(_PRODUCTS, lambda: self._unary(depth)))

    def _binary(self, operators: frozenset[str], operand: Callable[[], Expression]) -> Expression:
        found = operand()
        while self._here.kind != "literal" and self._here.value in operators:
            token = self._here
            self._next += 1
            found = Call(token.value, (found, operand()), token.place)
        return found

    def _unary(self, depth: int) -> Expression:
        if depth > MAX_DEPTH:
            raise InvalidInputError(f"is nested deeper than {MAX_DEPTH}")
        place = self._here.place
        if self._takes("!"):
            return Call("!", (self._unary(depth + 1),), place)
        if self._takes("-"):
            value = self._here.value
            if self._here.kind == "literal" and type(value) is int:
                self._next += 1
                return self._members(Literal(-value), depth)
            return Call("negative", (self._unary(depth + 1),), place)
        return self._members(self._primary(depth), depth)

    def _members(self, found: Expression, depth: int) -> Expression:
        if isinstance(found, Literal) and type(found.value) is int and found.value > MAX_INT:
            raise InvalidInputError("has a number beyond 64 bits")
        while True:
            place = self._here.place
            sign = self._here.value if self._here.kind == "sign" else ""
            if sign in {"[", "[?"}:
                self._next += 1
                found = Call("[]" if sign == "[" else "[?]", (found, self.expression(depth + 1)), place)
                self._expect("]")
            elif sign == ".":
                self._next += 1
                found = self._member(found, self._name(), depth, place)
            elif sign == ".?":
                self._next += 1
                found = Call(".?", (found, Literal(self._name())), place)
            else:
                return found

    def _member(self, operand: Expression, name: str, depth: int, place: int) -> Expression:
        if not self._takes("("):
            return Call(".", (operand, Literal(name)), place)
        if name in _MACROS:
            return self._macro(operand, name, depth, place)
        qualified = f"{operand.name}.{name}" if isinstance(operand, Name) else ""
        arguments = self._list(")", depth)
        if qualified in FUNCTIONS:
            return self._checked(qualified, arguments, FUNCTIONS[qualified].numbers, place)
        if name not in METHODS:
            raise self._no_function(name, METHODS, place)
        return self._checked(name, (operand, *arguments), METHODS[name].numbers, place)

    def _macro(self, over: Expression, kind: str, depth: int, place: int) -> Expression:
        variable = self._name()
        if variable in self._variables or variable in self._bound:
            raise InvalidInputError(f"has a variable twice: {variable}, at {at(self._text, place)}")
        self._expect(",")
        self._bound.append(variable)
        found = [self.expression(depth + 1)]
        while self._takes(","):
            found.append(self.expression(depth + 1))
        self._expect(")")
        self._bound.pop()
        if len(found) == 1:
            return Macro(kind, variable, over, found[0], place=place)
        if kind == "map" and len(found) == _WITH_CONDITION - 1:
            return Macro(kind, variable, over, found[1], found[0], place=place)
        raise InvalidInputError(f"has {kind}() with a wrong number of arguments, at {at(self._text, place)}")

    def _primary(self, depth: int) -> Expression:
        token = self._here
        if token.kind == "literal":
            self._next += 1
            return Literal(token.value)
        if self._takes("("):
            found = self.expression(depth + 1)
            self._expect(")")
            return found
        if self._takes("["):
            return Call("list", self._list("]", depth), token.place)
        if self._takes("{"):
            return Call("map", self._entries(depth), token.place)
        self._takes(".")
        name = self._name()
        if self._takes("("):
            return self._function(name, self._list(")", depth), token.place)
        return self._variable(name, token.place)

    def _variable(self, name: str, place: int) -> Expression:
        known = name in self._bound or name in self._variables
        # `optional.none()`: the name before a function.
        if known or any(function.startswith(f"{name}.") for function in FUNCTIONS):
            return Name(name)
        there = ", ".join(self._variables)
        raise InvalidInputError(
            f"has a variable that does not exist: {name}, at {at(self._text, place)}; there is {there}"
        )

    def _function(self, name: str, arguments: tuple[Expression, ...], place: int) -> Expression:
        if name == "has":
            match arguments:
                case (Call(".", (operand, Literal() as key)),):
                    return Call("has", (operand, key), place)
                case _:
                    raise InvalidInputError(
                        f"has has() of what is no field, at {at(self._text, place)}: write has(a.b)"
                    )
        if name not in FUNCTIONS:
            raise self._no_function(name, FUNCTIONS, place)
        return self._checked(name, arguments, FUNCTIONS[name].numbers, place)

    def _no_function(self, name: str, known: Collection[str], place: int) -> InvalidInputError:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f": did you mean {near[0]}?" if near else ""
        return InvalidInputError(f"has a function that is not supported: {name}(), at {at(self._text, place)}{hint}")

    def _checked(self, name: str, arguments: tuple[Expression, ...], numbers: Container[int], place: int) -> Expression:
        if len(arguments) not in numbers:
            raise InvalidInputError(f"has {name}() with a wrong number of arguments, at {at(self._text, place)}")
        return Call(name, arguments, place)

    def _list(self, end: str, depth: int) -> tuple[Expression, ...]:
        found: list[Expression] = []
        while not self._takes(end):
            if found:
                self._expect(",")
                if self._takes(end):
                    break
            found.append(self.expression(depth + 1))
        return tuple(found)

    def _entries(self, depth: int) -> tuple[Expression, ...]:
        found: list[Expression] = []
        while not self._takes("}"):
            if found:
                self._expect(",")
                if self._takes("}"):
                    break
            found.append(self.expression(depth + 1))
            self._expect(":")
            found.append(self.expression(depth + 1))
        return tuple(found)

    def _name(self) -> str:
        token = self._here
        if token.kind != "name" or token.value == "in":
            raise self._unexpected()
        self._next += 1
        return str(token.value)

    def _takes(self, sign: str) -> bool:
        if self._here.kind == "literal" or self._here.value != sign:
            return False
        self._next += 1
        return True

    def _expect(self, sign: str) -> None:
        if not self._takes(sign):
            raise self._unexpected()

    def _unexpected(self) -> InvalidInputError:
        token = self._here
        what = "the end" if token.kind == "end" else repr(token.value)
        return InvalidInputError(f"has {what} where it cannot be, at {at(self._text, token.place)}")
