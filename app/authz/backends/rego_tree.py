"""The syntax tree of a Rego module as regorus has it: nodes of one kind, references, names and imports."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Node = Mapping[str, Any]
Path = tuple[str, ...]

CONSTANTS = frozenset({"String", "RawString", "Number", "Bool", "True", "False", "Null"})
REFERENCES = frozenset({"Var", "RefDot", "RefBrack"})
_STRINGS = frozenset({"String", "RawString"})


@dataclass(frozen=True, slots=True)
class Module:
    """A module: its tree, its package (`("envoy", "authz")`), and what its imports name."""

    tree: Node
    text: bytes
    package: Path
    imports: Mapping[str, Path]

    def place_of(self, path: Path) -> Path:
        """Return where in `data` a function of the module's own, or of another that its name begins with, would be."""
        return path if path[:1] == ("data",) else ("data", *self.package, *path)


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference up to the first part that is no constant: its names, and whether that is all of it.

    `input.a[x].b` has the path `("input", "a")` and is not whole.
    """

    path: Path
    whole: bool


def module_of(tree: Node, text: str) -> Module:
    """Return the module of a tree and the text that it was parsed from."""
    source = text.encode()
    imports: dict[str, Path] = {}
    for each in tree["imports"]:
        path = reference_of(each["refr"], {}).path
        named = each.get("as")
        imports[text_of(source, named) if named else path[-1]] = path
    return Module(tree, source, reference_of(tree["package"]["refr"], {}).path, imports)


def nodes(node: Any, name: str) -> Iterator[Node]:
    """Yield the nodes of one kind in the tree."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == name and isinstance(value, dict):
                yield value
            yield from nodes(value, name)
    elif isinstance(node, list):
        for each in node:
            yield from nodes(each, name)


def kind_of(expression: Node) -> tuple[str, Any]:
    """Return the kind of an expression, and what is in it."""
    ((kind, inside),) = expression.items()
    return kind, inside


def text_of(source: bytes, span: Node) -> str:
    """Return the text at a place."""
    return source[span["start"] : span["end"]].decode()


def reference_of(expression: Node, imports: Mapping[str, Path]) -> Reference:
    """Return the path of a reference, with what its first name is imported as; of another expression an empty one."""
    kind, inside = kind_of(expression)
    if kind == "Var":
        name = str(inside["value"])
        return Reference(imports.get(name, (name,)), whole=True)
    if kind not in REFERENCES:
        return Reference((), whole=False)
    found = reference_of(inside["refr"], imports)
    if not found.whole:
        return found
    if kind == "RefDot":
        return Reference((*found.path, str(inside["field"][1])), whole=True)
    index_kind, index = kind_of(inside["index"])
    if index_kind in _STRINGS:
        return Reference((*found.path, str(index["value"])), whole=True)
    return Reference(found.path, whole=False)


def indices_of(expression: Node) -> Iterator[Node]:
    """Yield the expressions in the brackets of a reference."""
    kind, inside = kind_of(expression)
    if kind == "RefBrack":
        yield inside["index"]
    if kind in {"RefBrack", "RefDot"}:
        yield from indices_of(inside["refr"])


def base_of(expression: Node) -> Node:
    """Return what a reference begins with."""
    kind, inside = kind_of(expression)
    return base_of(inside["refr"]) if kind in {"RefBrack", "RefDot"} else expression
