"""What of its input a set of Rego policies reads, so that no more is written for it, and equal decisions are known.

Every reference to `input` is found in the text, by itself or by an import. One whose parts are not all constant
(`input.headers[name]`) reads all of what is before; `input` by itself, or replaced by `with`, is read whole.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from app.authz.backends.rego_tree import REFERENCES, Module, Path, indices_of, kind_of, nodes, reference_of

_WHOLE: frozenset[Path] = frozenset({()})
_INPUT = "input"
# Functions whose value is another one later: the time, which a JWT's verification asks for as well, and chance.
_CHANGING = frozenset(
    {
        "time.now_ns",
        "rand.intn",
        "uuid.rfc4122",
        "http.send",
        "net.lookup_ip_addr",
        "opa.runtime",
        "io.jwt.decode_verify",
        "io.jwt.encode_sign",
        "io.jwt.encode_sign_raw",
    }
)


def paths_read(modules: Iterable[Module]) -> frozenset[Path]:
    """Return the paths below `input` that the modules may read; an empty path is all of it."""
    found: set[Path] = set()
    for module in modules:
        if any(_modified(module.tree)):
            return _WHOLE
        found.update(_paths(module.tree, module))
    return _WHOLE if () in found else frozenset(found)


def is_pure(modules: Iterable[Module]) -> bool:
    """Whether the modules decide the same for the same input, now and later."""
    called = {
        ".".join(reference_of(each["fcn"], module.imports).path)
        for module in modules
        for each in nodes(module.tree, "Call")
    }
    return not called & _CHANGING


def _modified(node: Any) -> Iterator[bool]:
    if isinstance(node, dict):
        if node.get("with_mods"):
            yield True
        for value in node.values():
            yield from _modified(value)
    elif isinstance(node, list):
        for each in node:
            yield from _modified(each)


def _paths(node: Any, module: Module) -> Iterator[Path]:
    if isinstance(node, list):
        for each in node:
            yield from _paths(each, module)
    elif isinstance(node, dict):
        for name, value in node.items():
            if name in {"package", "imports"}:
                continue
            if name in REFERENCES:
                yield from _reference({name: value}, module)
            else:
                yield from _paths(value, module)


def _reference(expression: dict[str, Any], module: Module) -> Iterator[Path]:
    path = reference_of(expression, module.imports).path
    if path[:1] == (_INPUT,):
        yield path[1:]
    elif not path:
        # It begins with an expression: `f(input.x).y`, `{"a": 1}[input.x]`.
        _, inside = kind_of(expression)
        yield from _paths(inside["refr"], module)
    for index in indices_of(expression):
        yield from _paths(index, module)
