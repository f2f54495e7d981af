"""Whether a policy can make a value that is much longer than what it was given, by putting values together.

`y := concat("", [x, x])` is twice as long as `x`, and thirty such lines make a gigabyte. Each name has a weight: how
many times the request's own text its value may have. Names of different rules are not told apart, so that a weight is
never too small.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from app.authz.backends.rego_tree import CONSTANTS, REFERENCES, Module, Node, kind_of, nodes, reference_of, text_of

MAX_GROWTH = 16
# Names are weighed again until no weight changes: a chain of so many names that are read before they are written.
_ROUNDS = 32
_MULTIPLYING = frozenset({"Mul", "Div", "Mod"})

Weights = dict[str, int]
Functions = dict[str, list[list[Node]]]
"""The arguments of each definition of a function, by the last part of its name."""


def grows_too_much(modules: Iterable[Module]) -> bool:
    """Whether a value may be more than MAX_GROWTH times as long as the request, or whether that cannot be told."""
    found = tuple(modules)
    if any(_multiplies(node) for module in found for node in nodes(module.tree, "ArithExpr")):
        return True
    functions: Functions = {}
    for each in (node for module in found for node in nodes(module.tree, "Func")):
        functions.setdefault(reference_of(each["refr"], {}).path[-1], []).append(each["args"])
    weights: Weights = {}
    for _ in range(_ROUNDS):
        before = dict(weights)
        for module in found:
            given = chain(_assignments(module, weights), _arguments(functions, module, weights))
            for names, weight in given:
                for name in names:
                    weights[name] = max(weights.get(name, 1), weight)
        if max(weights.values(), default=1) > MAX_GROWTH:
            return True
        if weights == before:
            return any(_weight(module, each, weights) > MAX_GROWTH for module in found for each in _values(module))
    return True


def _multiplies(node: Node) -> bool:
    """Whether it multiplies two numbers of the request: a product has as many digits as both."""
    return node["op"] in _MULTIPLYING and "Number" not in node["lhs"] and "Number" not in node["rhs"]


def _values(module: Module) -> Iterator[Node]:
    for kind in ("Array", "Set", "Object", "Call"):
        for each in nodes(module.tree, kind):
            if "refr" not in each:  # the head of a rule with several values is a Set as well
                yield {kind: each}


def _assignments(module: Module, weights: Weights) -> Iterator[tuple[list[str], int]]:
    """Yield the names that get a value, and its weight."""
    for rule in module.tree["rules"]:
        _, inside = kind_of(rule)
        head = kind_of(inside["head"])[1] if "head" in inside else inside
        given = [head.get("key"), head.get("value"), _value(head), *map(_value, inside.get("bodies", ()))]
        for each in filter(None, given):
            yield list(reference_of(head["refr"], {}).path), _weight(module, each, weights)
    for each in nodes(module.tree, "AssignExpr"):
        yield _names(each["lhs"]), _weight(module, each["rhs"], weights)
        if each["op"] != "ColEq":
            yield _names(each["rhs"]), _weight(module, each["lhs"], weights)
    for each in nodes(module.tree, "SomeIn"):
        yield _names(each), _weight(module, each["collection"], weights)
    for each in nodes(module.tree, "Every"):
        named = [text_of(module.text, each[name]) for name in ("key", "value") if each.get(name)]
        yield named, _weight(module, each["domain"], weights)


def _arguments(functions: Functions, module: Module, weights: Weights) -> Iterator[tuple[list[str], int]]:
    """Yield the arguments of functions with the weights that the module's calls give them."""
    for call in nodes(module.tree, "Call"):
        path = reference_of(call["fcn"], module.imports).path
        for arguments in functions.get(path[-1] if path else "", ()):
            for argument, operand in zip(arguments, call["params"], strict=False):
                yield _names(argument), _weight(module, operand, weights)


def _value(node: Node) -> Node | None:
    assign: Node | None = node.get("assign")
    return assign["value"] if assign else None


def _names(expression: Any) -> list[str]:
    return [str(each["value"]) for each in nodes(expression, "Var")]


def _weight(module: Module, expression: Node, weights: Weights) -> int:
    """Return how long a value may be, in lengths of the request; a constant has none."""
    kind, inside = kind_of(expression)
    if kind in CONSTANTS:
        return 0
    if kind in REFERENCES:
        path = reference_of(expression, module.imports).path
        return max((weights.get(name, 1) for name in path), default=1)
    if kind in {"ArrayCompr", "SetCompr", "ObjectCompr"}:
        return sum(_weight(module, inside[name], weights) for name in ("term", "key", "value") if inside.get(name))
    operands: list[Node] = []
    if kind in {"Array", "Set"}:
        operands = list(inside["items"])
    elif kind == "Object":
        operands = [each for _, *pair in inside["fields"] for each in pair]
    elif kind == "Call":
        operands = list(inside["params"])
    elif "lhs" in inside:
        operands = [inside["lhs"], inside["rhs"]]
    total = sum(_weight(module, each, weights) for each in operands)
    if kind == "Call":
        path = reference_of(inside["fcn"], module.imports).path
        total = max(total, max((weights.get(name, 0) for name in path), default=0))
    return total
