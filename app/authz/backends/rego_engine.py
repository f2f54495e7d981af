"""regorus, with a set of policies in it: in a child process, or beside the event loop where `rego_cost` allows it.

What it is given and what it returns is JSON text: regorus' own conversion of Python's values ends the process for some
strings that are no Unicode.
"""

import json
from collections.abc import Iterable, Iterator
from functools import cache, partial
from typing import Any

from app.authz.backends import rego_jwt, rego_text
from app.authz.backends.rego_refused import conflict, pattern_line
from app.authz.backends.rego_rewrite import UnsupportedError, rewrite
from app.authz.backends.rego_tree import Module, Path, kind_of, module_of, nodes, reference_of
from app.authz.backends.rego_wire import DECISION, FAILED, FALSE, TRUE, UNDEFINED
from app.core.errors import InvalidInputError

# An error of regorus has a source line and a stack; its beginning says what is wrong.
MAX_ERROR = 512

_PANIC = "PanicException"
_NO_RULE = "not a valid rule path"

Modules = Iterable[tuple[str, str]]


def rewritten(modules: Modules, *, v0: bool) -> list[tuple[str, str]]:
    """Return the modules as regorus is given them. Raises InvalidInputError for what it cannot evaluate.

    regorus looks for a function when it is called, which may be in a rule that no request has reached yet.
    """
    found: list[tuple[str, str]] = []
    trees: list[tuple[str, Module]] = []
    for name, text in modules:
        try:
            found.append((name, rewrite(text, partial(parsed, name, v0=v0))))
        except UnsupportedError as error:
            raise InvalidInputError(f"{name}: {error}") from error
        trees.append((name, module_of(parsed(name, text, v0=v0), text)))
    for name, module in trees:
        line = pattern_line(module)
        if line is not None:
            raise InvalidInputError(f"{name}: line {line}: an object as a pattern is not supported: compare its parts")
    own = {module.place_of(path) for _, module in trees for path in _functions(module)}
    for name, module in trees:
        for call in nodes(module.tree, "Call"):
            path = reference_of(call["fcn"], module.imports).path
            if path and module.place_of(path) not in own and not _is_available(".".join(path), v0=v0):
                line = call["span"]["line"]
                raise InvalidInputError(f"{name}: line {line}: the function {'.'.join(path)} is not available")
    return found


def check_data(modules: Modules, data: str, *, v0: bool) -> None:
    """Raise InvalidInputError if `data`, which is JSON, has something where the modules have a rule."""
    found = json.loads(data)
    for name, text in modules:
        place = conflict(module_of(parsed(name, text, v0=v0), text), found)
        if place:
            raise InvalidInputError(f"{name}: the data has something at {place}, which is a rule here")


def _functions(module: Module) -> Iterator[Path]:
    """Yield the names of the module's own functions, with those of which there is no more than a default."""
    for rule in module.tree["rules"]:
        _, inside = kind_of(rule)
        head = inside.get("head", {}).get("Func") or (inside if inside.get("args") else None)
        if head is not None:
            yield reference_of(head["refr"], {}).path


@cache
def _is_available(name: str, *, v0: bool) -> bool:
    """Whether regorus finds a function, called here without arguments."""
    engine = _engine(v0=v0)
    try:
        engine.add_policy("probe", f"package probe\nx := [1 | {name}()]")
        engine.set_input_json("{}")
        engine.eval_rule("data.probe.x")
    except RuntimeError as error:
        return "could not find function" not in str(error)
    return True


class Loaded:
    """A set of policies that regorus has loaded, and one query. It is used and closed in the thread that made it."""

    def __init__(self, modules: Modules, data: str, query: str, *, v0: bool) -> None:
        """Load the modules, which are those that `rewritten` returns; `data` is JSON, `query` `data.envoy.authz.allow`.

        Raises what regorus raises for policies that are not valid.
        """
        self._query, self._is_rule = query, True
        self._engine: Any = _engine(v0=v0)
        for name, text in modules:
            self._engine.add_policy(name, text)
        self._engine.add_data_json(data)
        self._try_once()

    def _try_once(self) -> None:
        try:
            self.evaluate("{}")
        except RuntimeError as error:
            if _NO_RULE in str(error):
                # A package or a part of the data; what is nowhere in the policies is undefined for every input.
                self._is_rule = False
                packages = [f"data.{each.removeprefix('data.')}" for each in self._engine.get_packages()]
                if not any(each.startswith(self._query) for each in packages) and self.evaluate("{}") is None:
                    raise RuntimeError(f"the policies have nothing at {self._query}") from error
            # Another error may come from the empty input; one in the policies themselves comes with every input.
            elif "is unsafe" in str(error) or "could not find" in str(error):
                raise

    def evaluate(self, text: str) -> Any:
        """Return the value of the query for an input, None if it is undefined. Raises what regorus raises."""
        self._engine.set_input_json(text)
        if self._is_rule:
            return self._engine.eval_rule(self._query)
        found = self._engine.eval_query(self._query)["result"]
        return found[0]["expressions"][0]["value"] if found else None

    def reply(self, text: bytes) -> bytes:
        """Return what was decided on an input, or why nothing was, as `rego_wire` has it."""
        try:
            value = self.evaluate(text.decode())
            if value is True:
                return TRUE
            if value is False:
                return FALSE
            if value is None:
                return UNDEFINED
            return DECISION + json.dumps(value, default=_listed).encode()
        except BaseException as error:
            # What the library raises, a panic in it included, which is no Exception; and a value that is no JSON.
            if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
                raise
            return FAILED + said(error)

    def close(self) -> None:
        """Free the policies: regorus does not have it done by the collector in another thread."""
        self._engine = None


def parsed(name: str, text: str, *, v0: bool) -> Any:
    """Return the syntax tree of a module. Raises what regorus raises for one that is not valid."""
    parser = _engine(v0=v0)
    parser.add_policy(name, text)
    (module,) = json.loads(parser.get_ast_as_json())
    return module["ast"]


def said(error: BaseException) -> bytes:
    """Return what an error of regorus says."""
    text = str(error).partition("Stack backtrace")[0]
    return " ".join(text.split())[:MAX_ERROR].encode("utf-8", "replace")


def _engine(*, v0: bool) -> Any:
    try:
        import regorus  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise RuntimeError("regorus is not installed: install meshward[rego]") from error
    engine: Any = regorus.Engine()
    engine.set_rego_v0(v0)
    older = rego_text.v0_functions() if v0 else ()
    for name, arguments, function in (*rego_jwt.functions(), *rego_text.functions(), *older):
        engine.add_extension(name, arguments, function)
    return engine


def _listed(value: object) -> list[Any]:
    if isinstance(value, set | frozenset):
        return sorted(value, key=json.dumps)
    raise TypeError(f"{type(value).__name__} is no JSON")
