"""What is refused in Rego policies because regorus would decide in another way than OPA, and could let more pass.

1. An object as a pattern. OPA compares all keys of both, regorus those of the pattern: `{"role": r} := input.user` has
   a value for every user with a role, and in OPA for none who has anything else.
2. Data at the place of a rule, which regorus takes instead of the rule. OPA refuses both.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from app.authz.backends.rego_tree import Module, Node, kind_of, nodes, reference_of


def pattern_line(module: Module) -> int | None:
    """Return the line of the first object that is a pattern, None if there is none."""
    rules = module.tree["rules"]
    known = frozenset({"input", "data", *module.imports, *(_place(rule)[0] for rule in rules)})
    found = [
        each["span"]["line"]
        for rule in rules
        for pattern in (*_arguments(rule), *_patterns(rule, known | _names(_arguments(rule))))
        for each in nodes(pattern, "Object")
    ]
    return min(found, default=None)


def conflict(module: Module, data: Mapping[str, Any]) -> str:
    """Return the place of a rule where data has something as well, or on the way there; empty if there is none."""
    for rule in module.tree["rules"]:
        place = module.place_of(_place(rule))
        if _has(data, place[1:]):
            return ".".join(place)
    return ""


def _head(rule: Node) -> Node:
    _, inside = kind_of(rule)
    head: Node = kind_of(inside["head"])[1] if "head" in inside else inside
    return head


def _place(rule: Node) -> tuple[str, ...]:
    return reference_of(_head(rule)["refr"], {}).path


def _arguments(rule: Node) -> list[Any]:
    return list(_head(rule).get("args") or ())


def _has(value: Any, path: Iterable[str]) -> bool:
    for name in path:
        if not isinstance(value, dict):
            return True
        if name not in value:
            return False
        value = value[name]
    return True


def _patterns(node: Any, known: frozenset[str]) -> Iterator[Any]:
    """Yield what a value is compared with part by part, as some of its variables are not those of `known`."""
    if isinstance(node, list):
        for each in node:
            yield from _patterns(each, known)
    if not isinstance(node, dict):
        return
    for name, inside in node.items():
        if name == "stmts":
            for statement in inside:
                yield from _patterns(statement, known)
                known |= _names(_outside_of_queries(statement))
            continue
        if name == "SomeIn":
            yield [inside.get("key"), inside["value"]]
        elif name == "RefBrack" and _names(inside["index"]) - known:
            yield inside["index"]
        elif name == "AssignExpr":
            yield from _sides(inside, known)
        yield from _patterns(inside, known)


def _sides(assignment: Node, known: frozenset[str]) -> Iterator[Any]:
    left, right = assignment["lhs"], assignment["rhs"]
    if assignment["op"] == "ColEq":
        yield left
    elif (_names(left) | _names(right)) - known - _given(left, right) - _given(right, left):
        yield [left, right]


def _given(target: Node, value: Node) -> frozenset[str]:
    """Return the variable that gets an object's value, `decision = {"allowed": x}`."""
    return _names(target) if "Var" in target and "Object" in value else frozenset()


def _names(node: Any) -> frozenset[str]:
    return frozenset(str(each["value"]) for each in nodes(node, "Var"))


def _outside_of_queries(node: Any) -> Any:
    """Return the node without what has a query of its own, as comprehensions do."""
    if isinstance(node, dict):
        return {} if "query" in node else {name: _outside_of_queries(inside) for name, inside in node.items()}
    return [_outside_of_queries(each) for each in node] if isinstance(node, list) else node
