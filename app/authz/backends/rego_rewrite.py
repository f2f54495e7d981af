"""Rego is written so that regorus evaluates `not` as OPA does.

OPA evaluates the operands of an expression before it, outside of `not`: where there is no role,
`not startswith(input.role, "guest")` is undefined. regorus evaluates them inside, and takes it to be true: what OPA
denies would pass. So each operand gets a name in a statement of its own, as in OPA's compiler:
`__not1 := input.role; not startswith(__not1, "guest")`.
"""

from collections.abc import Callable, Iterator
from typing import Any

from app.authz.backends.rego_tree import CONSTANTS, REFERENCES, Node, nodes

# `not` in a comprehension in an operand of `not`, and so on; a round takes the innermost ones.
MAX_ROUNDS = 8

# Functions that regorus has a name for and no result, so that a policy that calls one would be decided without it, and
# one that would read patterns otherwise than `rego_text` does.
UNAVAILABLE = frozenset({"http.send", "net.lookup_ip_addr", "opa.runtime", "rego.parse_module", "regex.template_match"})

_PREFIX = "__not"

Edit = tuple[int, int, bytes]
Parse = Callable[[str], Node]


class UnsupportedError(Exception):
    """A policy that cannot be evaluated as OPA would."""


def rewrite(text: str, parse: Parse) -> str:
    """Return the module with the operands of `not` named; `parse` returns a module's syntax tree, as regorus has it.

    Raises UnsupportedError if it calls a function that is not available, or nests `not` deeper than MAX_ROUNDS.
    """
    used = 0
    for _ in range(MAX_ROUNDS):
        source = text.encode()
        tree = parse(text)
        for call in nodes(tree, "Call"):
            ((_, function),) = call["fcn"].items()
            name = source[slice(*_whole(function))].decode()
            if name in UNAVAILABLE:
                raise UnsupportedError(f"line {call['span']['line']}: {name} is not available")
        edits: list[Edit] = []
        for query, statement in _negations(tree, tree):
            found = _edit(source, query, statement, used)
            if found is not None:
                used += len(statement["operands"])
                edits.append(found)
        if not edits:
            return text
        text = _applied(source, _innermost(edits)).decode()
    raise UnsupportedError(f"`not` is nested more than {MAX_ROUNDS} times")


def _negations(node: Any, query: Node) -> Iterator[tuple[Node, dict[str, Any]]]:
    """Yield each statement with `not` that has operands to be named, and the query that it stands in."""
    if isinstance(node, list):
        for each in node:
            yield from _negations(each, query)
    if not isinstance(node, dict):
        return
    if "stmts" in node:
        query = node
    literal = node.get("literal")
    if isinstance(literal, dict) and "NotExpr" in literal:
        operands = list(_operands(literal["NotExpr"]["expr"]))
        if operands:
            yield query, {**node, "operands": operands}
    for value in node.values():
        yield from _negations(value, query)


def _operands(expression: Node) -> Iterator[tuple[int, int]]:
    """Yield the places of what has to be evaluated before the expression."""
    ((kind, inside),) = expression.items()
    if kind in REFERENCES:
        yield from _indices(expression)
        return
    found = (
        inside["params"]
        if kind == "Call"
        else [inside.get(name) for name in ("key", "value", "collection", "lhs", "rhs")]
    )
    equality = kind == "BoolExpr" and inside["op"] == "Eq"
    for operand in filter(None, found):
        ((operand_kind, operand_inside),) = operand.items()
        if operand_kind in CONSTANTS or _is_named(operand):
            continue
        if equality and operand_kind in REFERENCES:
            yield from _indices(operand)
        else:
            yield _whole(operand_inside)


def _indices(reference: Node) -> Iterator[tuple[int, int]]:
    """Yield the places of indices in a reference that are themselves to be evaluated: `data.roles[input.user]`."""
    ((kind, inside),) = reference.items()
    if kind == "RefBrack":
        ((index_kind, index),) = inside["index"].items()
        if index_kind not in CONSTANTS and index_kind != "Var":
            yield _whole(index)
    if kind in {"RefBrack", "RefDot"}:
        yield from _indices(inside["refr"])


def _is_named(operand: Node) -> bool:
    return str(operand.get("Var", {}).get("value", "")).startswith(_PREFIX)


def _edit(source: bytes, query: Node, statement: Node, used: int) -> Edit | None:
    span = statement["span"]
    start, end = _whole(statement)
    modifiers = statement.get("with_mods") or ()
    modified = b" " + source[modifiers[0]["span"]["start"] : end] if modifiers else b""
    named: list[bytes] = []
    replaced: list[Edit] = []
    for number, operand in enumerate(statement["operands"], start=used + 1):
        name = f"{_PREFIX}{number}".encode()
        first, last = operand
        named.append(name + b" := " + source[first:last] + modified)
        replaced.append((first - start, last - start, name))
    text = b"; ".join([*named, _applied(source[start:end], replaced)])
    # `if not f(x)` has no braces.
    return start, end, b"{ " + text + b" }" if query["span"] == span else text


def _innermost(edits: list[Edit]) -> list[Edit]:
    return [
        edit
        for edit in edits
        if not any(edit is not other and edit[0] <= other[0] and other[1] <= edit[1] for other in edits)
    ]


def _applied(source: bytes, edits: list[Edit]) -> bytes:
    for start, end, text in sorted(edits, reverse=True):
        source = source[:start] + text + source[end:]
    return source


def _whole(node: Node) -> tuple[int, int]:
    """Return where the node begins and ends, quotes included, which regorus leaves out."""
    start, end = node["span"]["start"], node["span"]["end"]
    strings = [text["span"] for kind in ("String", "RawString") for text in nodes(node, kind)]
    opened = any(span["start"] == start for span in strings)
    closed = any(span["end"] == end for span in strings)
    return start - opened, end + closed
