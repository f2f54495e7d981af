"""An expression of the Common Expression Language, compiled once and evaluated with a bound on its steps."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from app.cel.functions import FUNCTIONS, METHODS
from app.cel.operators import OPERATORS, boolean, of
from app.cel.parser import parse
from app.cel.pattern import Pattern, compile_pattern
from app.cel.tree import Call, Expression, Literal, Macro, Name, fields_read
from app.cel.values import Budget, EvaluationError
from app.core.errors import InvalidInputError

_APPLY = {name: function.apply for name, function in (FUNCTIONS | METHODS).items()} | OPERATORS

Scope = dict[str, Any]
Step = Callable[[Scope, Budget], Any]
"""Returns the value of a part of the expression; raises EvaluationError if it has none."""


class Program:
    """An expression over variables, compiled.

    `tree` is what was read, `reads` the paths of the variables' fields that it looks at.
    """

    __slots__ = ("_step", "reads", "text", "tree")

    def __init__(self, text: str, variables: tuple[str, ...]) -> None:
        """Compile the text. Raises InvalidInputError with what is wrong with it, and at which line and character."""
        self.text = text
        self.tree = parse(text, variables)
        self.reads = frozenset(fields_read(self.tree))
        self._step = _compiled(self.tree)

    def evaluate(self, variables: Mapping[str, Any]) -> Any:
        """Return the value with these variables. Raises EvaluationError if it has none, ExhaustedError at a bound."""
        return self._step(dict(variables), Budget())


def _compiled(expression: Expression) -> Step:
    match expression:
        case Literal(value):
            return lambda _scope, _budget: value
        case Name(name):
            return _named(name)
        case Call("&&" | "||" as function, arguments):
            return _logical(tuple(map(_compiled, arguments)), decisive=function == "||")
        case Call("?:", (condition, then, otherwise)):
            return _chosen(_compiled(condition), _compiled(then), _compiled(otherwise))
        case Call("matches", (operand, pattern)):
            return _matching(_compiled(operand), _pattern(pattern))
        case Call(function, arguments):
            return _applied(_APPLY[function], tuple(map(_compiled, arguments)))
        case Macro():
            return _macro(expression)


def _named(name: str) -> Step:
    def step(scope: Scope, _budget: Budget) -> Any:
        try:
            return scope[name]
        except KeyError as error:
            raise EvaluationError(f"a variable is missing: {name}") from error

    return step


def _applied(apply: Callable[..., Any], arguments: tuple[Step, ...]) -> Step:
    if len(arguments) == 2:  # noqa: PLR2004 - most operators have two operands
        first, second = arguments

        def binary(scope: Scope, budget: Budget) -> Any:
            budget.take()
            return apply(budget, first(scope, budget), second(scope, budget))

        return binary

    def step(scope: Scope, budget: Budget) -> Any:
        budget.take()
        return apply(budget, *[each(scope, budget) for each in arguments])

    return step


def _chosen(condition: Step, then: Step, otherwise: Step) -> Step:
    return lambda scope, budget: (then if boolean(condition(scope, budget)) else otherwise)(scope, budget)


def _logical(arguments: tuple[Step, ...], *, decisive: bool) -> Step:
    """Return `&&` or `||`: what one operand decides stands, even if another has no value."""

    def step(scope: Scope, budget: Budget) -> bool:
        error: EvaluationError | None = None
        for each in arguments:
            try:
                if boolean(each(scope, budget)) is decisive:
                    return decisive
            except EvaluationError as found:
                error = found
            budget.take()
        if error is not None:
            raise error
        return not decisive

    return step


def _pattern(expression: Expression) -> Pattern:
    match expression:
        case Literal(str() as text):
            return compile_pattern(text)
        case _:
            raise InvalidInputError("has matches() with a pattern that is no constant")


def _matching(operand: Step, pattern: Pattern) -> Step:
    def step(scope: Scope, budget: Budget) -> bool:
        text = of(operand(scope, budget), str)
        budget.take_for(text)
        return pattern(text)

    return step


Elements = Callable[[Scope, Budget], Iterator[tuple[Any, Scope]]]
"""Yields the elements that a macro goes over, each with the scope that it has a name in."""


def _macro(macro: Macro) -> Step:
    elements, body = _elements(_compiled(macro.over), macro.variable), _compiled(macro.body)
    match macro.kind:
        case "map":
            return _mapped(elements, body, None if macro.condition is None else _compiled(macro.condition))
        case "filter":
            return _filtered(elements, body)
        case "exists_one":
            found = _filtered(elements, body)
            return lambda scope, budget: len(found(scope, budget)) == 1
        case _:
            return _quantified(elements, body, decisive=macro.kind == "exists")


def _elements(over: Step, variable: str) -> Elements:
    def elements(scope: Scope, budget: Budget) -> Iterator[tuple[Any, Scope]]:
        found = over(scope, budget)
        for element in found if isinstance(found, Mapping) else of(found, (list, tuple)):
            budget.take()
            yield element, {**scope, variable: element}

    return elements


def _mapped(elements: Elements, body: Step, condition: Step | None) -> Step:
    def step(scope: Scope, budget: Budget) -> Any:
        return [
            body(inner, budget)
            for _, inner in elements(scope, budget)
            if condition is None or boolean(condition(inner, budget))
        ]

    return step


def _filtered(elements: Elements, body: Step) -> Step:
    def step(scope: Scope, budget: Budget) -> Any:
        return [element for element, inner in elements(scope, budget) if boolean(body(inner, budget))]

    return step


def _quantified(elements: Elements, body: Step, *, decisive: bool) -> Step:
    """Return `exists` or `all`: what one element decides stands, even if it has no value for another."""

    def step(scope: Scope, budget: Budget) -> bool:
        error: EvaluationError | None = None
        for _, inner in elements(scope, budget):
            try:
                if boolean(body(inner, budget)) is decisive:
                    return decisive
            except EvaluationError as found:
                error = found
        if error is not None:
            raise error
        return not decisive

    return step
