"""Whether Rego policies are so bounded that they may be evaluated in the control plane's own process.

regorus has no limit of time, and holds the interpreter's lock while it evaluates. So what is evaluated outside of a
child process has to end soon whatever the request is, which is proven from the text:

1. Only syntax and functions that are known here, none of which takes more time than its arguments are long; some of
   them with an argument that has to be a constant.
2. A rule is evaluated once; a function as often as it is called, and none calls itself.
3. Loops go over `input`, `data` or a list that is written out. The steps are a polynomial of the number of elements
   that the request and the data have; `Cost.fits` compares it with MAX_STEPS for each request.
4. No value gets longer than MAX_GROWTH times the request: what is put together, twice, from what was put together
   multiplies.

Whatever this cannot tell has no cost, and is evaluated by a child process.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from app.authz.backends.rego_growth import grows_too_much
from app.authz.backends.rego_tree import (
    CONSTANTS,
    REFERENCES,
    Module,
    Node,
    Path,
    base_of,
    indices_of,
    kind_of,
    nodes,
    reference_of,
    text_of,
)

# A step is an expression with its operands, about 0.2 µs.
MAX_STEPS = 5_000
# Steps times the bytes of request and data: a step may look at all of them. At the most some 40 ms.
MAX_WORK = 8 << 20
# Steps of what makes a value for every few bytes, such as the request's own parsing: some 300 ns a byte.
MAKING_STEPS = 64
# Loops in each other.
MAX_DEGREE = 2
MAX_PATTERN = 256

BUILTINS = frozenset(
    {
        "startswith",
        "endswith",
        "contains",
        "lower",
        "upper",
        "trim",
        "trim_left",
        "trim_right",
        "trim_prefix",
        "trim_suffix",
        "trim_space",
        "split",
        "count",
        "is_string",
        "is_number",
        "is_boolean",
        "is_null",
        "is_array",
        "is_object",
        "is_set",
        "type_name",
        "to_number",
        "object.get",
        "array.slice",
        "indexof",
        "substring",
        "strings.any_prefix_match",
        "strings.any_suffix_match",
        "min",
        "max",
        "abs",
        "ceil",
        "floor",
        "round",
        "time.now_ns",
        "net.cidr_contains",
        "concat",
        "sprintf",
        "regex.match",
        "glob.match",
        "base64.decode",
        "base64url.decode",
        "urlquery.decode",
        "json.unmarshal",
        "object.keys",
    }
)
_MAKING = frozenset({"split", "json.unmarshal", "object.keys", "sprintf", "regex.match", "glob.match", "upper"})
# Of what is put between the elements of a list, each of which takes three bytes at least.
MAX_SEPARATOR = 16


@dataclass(frozen=True, slots=True)
class _Plain:
    """An argument that has to be a short constant, or a list of them, without any of the characters in `excluded`."""

    place: int
    excluded: frozenset[str] = frozenset()
    longest: int = MAX_PATTERN


# Counted repetition multiplies what is matched, and the width of a number is filled with spaces. The others look for
# each part of one argument in all of another, or put one between all parts of another.
_COUNTED = frozenset("{}")
_PLAIN = {
    "regex.match": _Plain(0, _COUNTED),
    "glob.match": _Plain(0, _COUNTED),
    "sprintf": _Plain(0, frozenset("0123456789*")),
    "trim": _Plain(1),
    "trim_left": _Plain(1),
    "trim_right": _Plain(1),
    "indexof": _Plain(1),
    "strings.any_prefix_match": _Plain(1),
    "strings.any_suffix_match": _Plain(1),
    "concat": _Plain(0, longest=MAX_SEPARATOR),
}

Poly = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """Steps of an evaluation: `steps[0]`, `steps[1]` for each element, and so on.

    `elements` and `data_bytes` are those of the data.
    """

    steps: Poly
    elements: int
    data_bytes: int

    def fits(self, text: bytes) -> bool:
        """Whether an evaluation with this input ends soon."""
        fixed, *others = self.steps
        steps = fixed
        if any(others):
            number = max(text.count(b",") + 1, self.elements)
            steps += sum(count * number**power for power, count in enumerate(others, start=1))
        work = steps * (len(text) + self.data_bytes) + MAKING_STEPS * len(text)
        return steps <= MAX_STEPS and work <= MAX_WORK


class _UnknownError(Exception):
    """The cost cannot be told."""


@dataclass
class _Query:
    """What is known of the query that is being looked at: its loops, and the variables that have a value."""

    bound: frozenset[str]
    loops: int = 0
    factor: int = 1


def cost_of(modules: Iterable[Module], data: bytes) -> Cost | None:
    """Return what an evaluation of all rules costs at most, None if that cannot be told; `data` is the base's JSON."""
    found = tuple(modules)
    try:
        steps = _Counter(found).total()
    except _UnknownError:
        return None
    if grows_too_much(found):
        return None
    written = max((module.text.count(b",") for module in found), default=0)
    return Cost(steps, max(data.count(b","), written) + 1, len(data))


@dataclass
class _Counter:
    modules: tuple[Module, ...]
    functions: dict[Path, list[tuple[Module, Node]]] = field(default_factory=dict)
    _costs: dict[Path, Poly | None] = field(default_factory=dict)

    def total(self) -> Poly:
        """Return the steps of all rules, each once."""
        rules: list[tuple[Module, Node]] = []
        for module in self.modules:
            for rule in module.tree["rules"]:
                head = rule["Spec"]["head"] if "Spec" in rule else {}
                if "Func" in head or rule.get("Default", {}).get("args"):
                    named = head.get("Func") or rule["Default"]
                    place = module.place_of(reference_of(named["refr"], {}).path)
                    self.functions.setdefault(place, []).append((module, rule))
                else:
                    rules.append((module, rule))
        return _sum(self._rule(module, rule) for module, rule in rules)

    def _rule(self, module: Module, rule: Node) -> Poly:
        kind, inside = kind_of(rule)
        if kind == "Default":
            return self._expression(module, inside["value"], _Query(frozenset()))
        if kind != "Spec":
            raise _UnknownError
        _, head = kind_of(inside["head"])
        arguments = frozenset(name for each in head.get("args", ()) for name in _variables(each))
        value = [each for each in (head.get("key"), _assigned(head)) if each]
        steps = [self._query(module, {"stmts": []}, arguments, value)] if not inside["bodies"] else []
        steps += [
            self._query(module, body["query"], arguments, [*value, *filter(None, [_assigned(body)])])
            for body in inside["bodies"]
        ]
        return _sum(steps)

    def _query(self, module: Module, query: Node, bound: frozenset[str], values: Iterable[Node]) -> Poly:
        at = _Query(bound | frozenset(_declared(query)))
        steps = [self._statement(module, each, at) for each in query["stmts"]]
        steps += [self._expression(module, each, at) for each in values]
        return _times(_sum([(1,), *steps]), at.factor, at.loops)

    def _statement(self, module: Module, statement: Node, at: _Query) -> Poly:
        if statement.get("with_mods"):
            raise _UnknownError
        kind, inside = kind_of(statement["literal"])
        if kind in {"Expr", "NotExpr"}:
            return self._expression(module, inside["expr"], at)
        if kind == "SomeVars":
            return (1,)
        if kind == "SomeIn":
            self._iterate(module, inside["collection"], at)
            return self._expression(module, inside["collection"], at)
        if kind == "Every":
            inner = _Query(at.bound)
            self._iterate(module, inside["domain"], inner)
            named = [text_of(module.text, inside[name]) for name in ("key", "value") if inside.get(name)]
            steps = self._query(module, inside["query"], at.bound | frozenset(named), [])
            return _sum([self._expression(module, inside["domain"], at), _times(steps, inner.factor, inner.loops)])
        raise _UnknownError

    def _expression(self, module: Module, expression: Node, at: _Query) -> Poly:
        kind, inside = kind_of(expression)
        if kind in CONSTANTS or kind == "Var":
            return (1,)
        if kind in REFERENCES:
            return self._reference(module, expression, at)
        if kind == "Call":
            return self._call(module, inside, at)
        if kind in {"ArrayCompr", "SetCompr", "ObjectCompr"}:
            values = [inside[name] for name in ("term", "key", "value") if inside.get(name)]
            return self._query(module, inside["query"], at.bound, values)
        steps = _sum([(1,), *(self._expression(module, each, at) for each in _operands(expression))])
        if kind == "Membership":
            # It looks at one element after the other.
            return _sum([steps, _times((1,), 1, 1)])
        return steps

    def _reference(self, module: Module, expression: Node, at: _Query) -> Poly:
        steps: list[Poly] = [(1,)]
        for index in indices_of(expression):
            kind, inside = kind_of(index)
            if kind == "Var" and inside["value"] not in at.bound and inside["value"] not in module.imports:
                self._iterate(module, expression, at)
            elif kind in {"Array", "Object", "Set"}:
                raise _UnknownError  # a pattern
            else:
                steps.append(self._expression(module, index, at))
        base = base_of(expression)
        if "Var" not in base:
            steps.append(self._expression(module, base, at))
        return _sum(steps)

    def _call(self, module: Module, call: Node, at: _Query) -> Poly:
        path = reference_of(call["fcn"], module.imports).path
        operands = _sum([(1,), *(self._expression(module, each, at) for each in call["params"])])
        place = module.place_of(path)
        if place in self.functions:
            return _sum([operands, self._function(place)])
        name = ".".join(path)
        plain = _PLAIN.get(name)
        if name not in BUILTINS or (plain is not None and not _is_plain(call["params"][plain.place], plain)):
            raise _UnknownError
        return _sum([operands, (MAKING_STEPS,)]) if name in _MAKING else operands

    def _iterate(self, module: Module, collection: Node, at: _Query) -> None:
        """Note that the query goes over the elements of a collection."""
        kind, inside = kind_of(base_of(collection))
        if kind in {"Array", "Set", "Object"}:
            at.factor *= max(1, len(inside.get("items") or inside.get("fields") or ()))
            return
        if not self._is_given(reference_of(collection, module.imports).path):
            raise _UnknownError
        at.loops += 1

    def _is_given(self, path: Path) -> bool:
        """Whether the path is of the input, or of data that is no rule's."""
        if path[:1] != ("data",):
            return path[:1] == ("input",)
        return len(path) > 1 and all(module.package[0] != path[1] for module in self.modules)

    def _function(self, place: Path) -> Poly:
        if place not in self._costs:
            self._costs[place] = None  # until it is known: a function that calls itself
            self._costs[place] = _sum(self._rule(module, rule) for module, rule in self.functions[place])
        found = self._costs[place]
        if found is None:
            raise _UnknownError
        return found


def _operands(expression: Node) -> list[Node]:
    """Return the operands of an operator, or the items of what is written out. Raises _UnknownError for other kinds."""
    kind, inside = kind_of(expression)
    if kind in {"Array", "Set"}:
        return list(inside["items"])
    if kind == "Object":
        return [each for _, *pair in inside["fields"] for each in pair]
    if kind == "Membership":
        return [inside[name] for name in ("key", "value", "collection") if inside.get(name)]
    if kind in {"BoolExpr", "AssignExpr", "ArithExpr"}:
        return [inside["lhs"], inside["rhs"]]
    raise _UnknownError


def _assigned(node: Node) -> Node | None:
    assign: Node | None = node.get("assign")
    return assign["value"] if assign else None


def _declared(query: Node) -> Iterable[str]:
    """Yield the variables that get a value in the query by `:=` or `some … in`, and not in one inside it."""
    for statement in query["stmts"]:
        kind, inside = kind_of(statement["literal"])
        if kind == "SomeIn":
            for name in ("key", "value"):
                yield from _variables(inside.get(name))
        elif kind == "Expr" and inside["expr"].get("AssignExpr", {}).get("op") == "ColEq":
            yield from _variables(inside["expr"]["AssignExpr"]["lhs"])


def _variables(expression: Node | None) -> Iterable[str]:
    return [str(each["value"]) for each in nodes(expression, "Var")]


def _is_plain(argument: Node, plain: _Plain) -> bool:
    """Whether an argument is what it has to be."""
    kind, inside = kind_of(argument)
    if kind in {"Array", "Set"}:
        return all(_is_plain(each, plain) for each in inside["items"])
    if kind not in {"String", "RawString"}:
        return False
    text = str(inside["value"])
    return len(text) <= plain.longest and not plain.excluded & set(text)


def _sum(polynomials: Iterable[Poly]) -> Poly:
    total = [0] * (MAX_DEGREE + 1)
    for each in polynomials:
        for power, count in enumerate(each):
            total[power] += count
    return tuple(total)


def _times(steps: Poly, factor: int, degree: int) -> Poly:
    found = (0,) * degree + tuple(count * factor for count in steps)
    if any(found[MAX_DEGREE + 1 :]):
        raise _UnknownError
    return found[: MAX_DEGREE + 1]
