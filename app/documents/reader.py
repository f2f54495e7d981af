"""Reading a document field by field, collecting every violation instead of stopping at the first."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from app.core.errors import InvalidInputError, Violation

# What one message lists; a document with more than this is wrong as a whole.
MAX_VIOLATIONS = 100
# Istio's bounds on lists of rules and of sources in a rule.
MAX_ITEMS = 512
# Values that one field of a rule may list; a longer list is better written as a pattern.
MAX_VALUES = 4096
# No name, path, host or header value that a policy means is longer.
MAX_VALUE_LENGTH = 4096

# How YAML 1.1 spells the booleans that the parser keeps as strings (https://yaml.org/type/bool.html).
_TRUE = frozenset({"y", "Y", "yes", "Yes", "YES", "True", "TRUE", "on", "On", "ON"})
_FALSE = frozenset({"n", "N", "no", "No", "NO", "False", "FALSE", "off", "Off", "OFF"})
_KINDS = {type(None): "nothing", bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}


@dataclass(slots=True)
class Problems:
    """What was found wrong so far."""

    found: list[Violation] = field(default_factory=list)

    def add(self, path: str, problem: str) -> None:
        """Note a problem of the field at `path`."""
        if len(self.found) < MAX_VIOLATIONS:
            self.found.append(Violation(path, problem))

    def summary(self) -> str:
        """Return the first problem, and how many more there are."""
        others = f" (and {len(self.found) - 1} more)" if len(self.found) > 1 else ""
        return f"{self.found[0]}{others}"


def violations_in(file: str, error: InvalidInputError) -> list[Violation]:
    """Return what is wrong with a file's documents, the file's name before each path."""
    found = error.violations or (Violation("", error.message),)
    return [Violation(f"{file}: {item.place}".rstrip(": "), item.problem) for item in found]


def kind_of(value: object) -> str:
    """Return what a person calls the type of `value`."""
    return _KINDS.get(type(value), "a mapping")


@dataclass(slots=True)
class Reader:
    """One mapping of a document. What is taken is known; `close` reports the rest as unknown.

    With `null_is_absent`, here and in the mappings inside, a field whose value is null is read as one that is absent.
    """

    value: Mapping[str, object]
    path: str
    problems: Problems
    taken: set[str] = field(default_factory=set)
    null_is_absent: bool = False

    def open(self, value: object, path: str) -> "Reader | None":
        """Return a reader of `value`, which is at `path`, or None, with the problem noted, if it is not a mapping."""
        if not isinstance(value, dict):
            self.problems.add(path, f"must be a mapping, not {kind_of(value)}")
            return None
        return Reader(value, path, self.problems, null_is_absent=self.null_is_absent)

    def at(self, name: str) -> str:
        """Return the path of the field `name`."""
        return f"{self.path}.{name}" if self.path else name

    def has(self, name: str) -> bool:
        """Whether the field is there, even if it is empty. One that is asked for is known."""
        self.taken.add(name)
        return name in self.value and not (self.null_is_absent and self.value[name] is None)

    def refuse(self, name: str, problem: str) -> None:
        """Note a problem of the field `name`."""
        self.taken.add(name)
        self.problems.add(self.at(name), problem)

    def take(self, name: str) -> object:
        """Return the field's value, None if it is absent, and remember that it is known."""
        self.taken.add(name)
        return self.value.get(name)

    def child(self, name: str) -> "Reader | None":
        """Return a reader of the mapping at `name`, None if it is absent or wrong."""
        value = self.take(name)
        return self.open(value, self.at(name)) if self.has(name) else None

    def text(self, name: str) -> str | None:
        """Return the string at `name`, None if it is absent or wrong."""
        value = self.take(name)
        if not self.has(name):
            return None
        if not isinstance(value, str):
            self.problems.add(self.at(name), f"must be a string, not {kind_of(value)}")
            return None
        return value

    def scalar(self, name: str) -> str | None:
        """Return the text of the string, integer or boolean at `name`, None if it is absent or of another type."""
        match self.take(name):
            case bool(value):
                return str(value).lower()
            case int(value):
                return str(value)
            case float():
                self.refuse(name, "must be a string: put it in quotes")
                return None
            case _:
                return self.text(name)

    def required_text(self, name: str, longest: int) -> str:
        """Return the scalar at `name`, of 1 to `longest` characters; empty, with the problem noted, if it is wrong."""
        value = self.scalar(name)
        if not self.has(name):
            self.refuse(name, "is required")
        elif value == "":
            self.refuse(name, "must not be empty")
        elif value is not None and len(value) > longest:
            self.refuse(name, f"is longer than {longest} characters")
        else:
            return value or ""
        return ""

    def flag(self, name: str) -> bool:
        """Return the boolean at `name`, in any spelling of YAML 1.1, False if it is absent or wrong."""
        value = self.take(name)
        if isinstance(value, str) and value in _TRUE | _FALSE:
            return value in _TRUE
        if self.has(name) and not isinstance(value, bool):
            self.refuse(name, "must be true or false")
        return value is True

    def items(self, name: str, limit: int = MAX_ITEMS) -> Iterator[tuple[str, object]]:
        """Yield path and value of each item of the list at `name`; nothing if it is absent or wrong."""
        value = self.take(name)
        if not self.has(name):
            return
        if not isinstance(value, list):
            self.problems.add(self.at(name), f"must be a list, not {kind_of(value)}")
        elif len(value) > limit:
            self.problems.add(self.at(name), f"has {len(value)} items, more than the {limit} that are allowed")
        else:
            for index, item in enumerate(value):
                yield f"{self.at(name)}[{index}]", item

    def children(self, name: str, limit: int = MAX_ITEMS) -> Iterator["Reader"]:
        """Yield a reader of each mapping in the list at `name`; nothing if it is absent or wrong."""
        for path, item in self.items(name, limit):
            if reader := self.open(item, path):
                yield reader

    def texts(self, name: str, limit: int = MAX_VALUES) -> Iterator[tuple[str, str]]:
        """Yield path and value of each string of the list at `name`; an empty string is a problem."""
        for path, item in self.items(name, limit):
            if not isinstance(item, str):
                self.problems.add(path, f"must be a string, not {kind_of(item)}: put it in quotes")
            elif not item:
                self.problems.add(path, "must not be empty")
            elif len(item) > MAX_VALUE_LENGTH:
                self.problems.add(path, f"is longer than {MAX_VALUE_LENGTH} characters")
            else:
                yield path, item

    def close(self) -> None:
        """Note every field that was not taken as unknown."""
        known = ", ".join(sorted(self.taken))
        for name in self.value:
            if name not in self.taken:
                self.problems.add(self.at(name), f"is not a field here; the fields are {known}")
