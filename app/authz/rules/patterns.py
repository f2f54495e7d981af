"""The values of a rule: strings, patterns, templates, address blocks. `value in patterns` is the match.

They are frozen, compared by value, and `spelled` lists them as a policy does. Patterns are sorted by kind, so that many
of them cost little more than one.

Some can be *wide*. A server may read a value in more than one way: a host with or without its port, a path with or
without its last slash. Wide patterns match if one reading does, others only if the value as it is does.
"""

# ruff: noqa: SIM110 - any() and all() over a generator cost more than what they go over

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from operator import methodcaller
from typing import Self

from app.authz.model import IpAddress, IpNetwork
from app.authz.rules.addresses import other_form
from app.authz.rules.hosts import authority_readings, server_name_readings, spellings_of
from app.authz.rules.paths import canonical, decoded

ANY = "*"
ONE_SEGMENT = "{*}"
ANY_SEGMENTS = "{**}"
# Operators in one template, Envoy's own bound; the expression below is linear in the path for any number.
MAX_OPERATORS = 5

_OPERATORS = re.compile(r"(\{\*\*?\})")
_LITERAL = re.compile(r"[a-zA-Z0-9\-._~%!$&'()+,;:@=]*")
# Those that Envoy's operators stand for; a literal of a template cannot have the `*` among them.
_CHARACTERS = r"a-zA-Z0-9\-._~%!$&'()*+,;:@="


@dataclass(frozen=True, slots=True)
class StringPatterns:
    """Istio's string patterns: `*` any text that is not empty, `*s` suffix, `p*` prefix, anything else exact."""

    exact: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    anything: bool = False
    matches: Callable[[str], bool] = field(init=False, repr=False, compare=False)
    """The same as `in`, and without a call in Python where all patterns are of one kind."""

    def __post_init__(self) -> None:
        matches: Callable[[str], bool] = self.__contains__
        kinds = [bool(kind) for kind in (self.exact, self.prefixes, self.suffixes, self.anything)]
        if kinds == [False, True, False, False]:
            matches = methodcaller("startswith", self.prefixes)
        elif kinds == [False, False, True, False]:
            matches = methodcaller("endswith", self.suffixes)
        object.__setattr__(self, "matches", matches)

    def __contains__(self, text: str) -> bool:
        if text in self.exact:
            return True
        if self.prefixes and text.startswith(self.prefixes):
            return True
        if self.suffixes and text.endswith(self.suffixes):
            return True
        return self.anything and text != ""

    def __str__(self) -> str:
        prefixes = [f"{prefix}*" for prefix in self.prefixes]
        suffixes = [f"*{suffix}" for suffix in self.suffixes]
        return ", ".join([*sorted(self.exact), *prefixes, *suffixes, *([ANY] if self.anything else [])])


Strings = frozenset[str] | StringPatterns
"""What a text is compared with; without any `*`, a set of texts, which is the fastest."""


def matcher_of(values: "Paths") -> Callable[[str], bool]:
    """Return what tells whether a text is one of `values`, for a caller that asks often."""
    return values.matches if isinstance(values, StringPatterns) else values.__contains__


def spelled(values: object) -> str:
    """Return the patterns as a policy spells them, with commas between them."""
    return ", ".join(map(str, sorted(values))) if isinstance(values, frozenset) else str(values)


def _as_written(text: str) -> Iterable[str]:
    return (text,)


def read_strings(patterns: Iterable[str], spellings: Callable[[str], Iterable[str]] = _as_written) -> Strings:
    """Sort `patterns` by kind. A leading `*` is looked at first: `*a*` is the suffix `a*`.

    `spellings` returns the texts to take instead of the text of a pattern, without the `*` that makes it one.
    """
    exact: list[str] = []
    prefixes: list[str] = []
    suffixes: list[str] = []
    anything = False
    for pattern in patterns:
        if pattern == ANY:
            anything = True
        elif pattern.startswith("*"):
            suffixes += spellings(pattern[1:])
        elif pattern.endswith("*"):
            prefixes += spellings(pattern[:-1])
        else:
            exact += spellings(pattern)
    if anything or prefixes or suffixes:
        return StringPatterns(frozenset(exact), tuple(prefixes), tuple(suffixes), anything)
    return frozenset(exact)


@dataclass(frozen=True, slots=True)
class WideHosts:
    """Patterns for an authority, which match it with its port or without, and with a dot at the end or without."""

    patterns: Strings

    @classmethod
    def of(cls, values: Iterable[str]) -> Self:
        """Return the patterns for a policy's values."""
        return cls(read_strings(dict.fromkeys(spellings_of(values))))

    def __contains__(self, host: str) -> bool:
        for reading in authority_readings(host):
            if reading in self.patterns:
                return True
        return False

    def __str__(self) -> str:
        return spelled(self.patterns)


@dataclass(frozen=True, slots=True)
class ServerNames:
    """Patterns for a server name, which must match every reading of it; wide patterns, one."""

    patterns: Strings
    wide: bool

    @classmethod
    def of(cls, values: Iterable[str], *, wide: bool) -> Self:
        """Return the patterns for a policy's values."""
        return cls(read_strings(dict.fromkeys(spellings_of(values) if wide else values)), wide)

    def __contains__(self, name: str) -> bool:
        readings = map(self.patterns.__contains__, server_name_readings(name))
        return any(readings) if self.wide else all(readings)

    def __str__(self) -> str:
        return spelled(self.patterns)


@dataclass(frozen=True, slots=True)
class PathTemplate:
    """One of Istio's path templates: `{*}` is one segment, `{**}` any number of them.

    An operator stands for the characters that Istio names. A wide template takes any other for them, too, such as `*`
    and `|`, with which a request would evade a denial, and allows one more slash at the end of the path.
    """

    text: str
    wide: bool
    _expression: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        segment = "[^/]" if self.wide else f"[{_CHARACTERS}]"
        expressions = {ONE_SEGMENT: f"{segment}+", ANY_SEGMENTS: ".*" if self.wide else f"[{_CHARACTERS}/]*"}
        parts = (expressions.get(segment, re.escape(segment)) for segment in self.text.split("/"))
        object.__setattr__(self, "_expression", re.compile("/".join(parts) + ("/?" if self.wide else "")))

    @property
    def beginning(self) -> str:
        """What every path that matches begins with: the text before the first operator."""
        return self.text.partition("{")[0]

    def matches(self, path: str) -> bool:
        """Whether the whole path matches."""
        return self._expression.fullmatch(path) is not None

    def __str__(self) -> str:
        return f"{self.text}, {self.text}/" if self.wide else self.text


@dataclass(frozen=True, slots=True)
class PathPatterns:
    """Patterns and templates for a path."""

    patterns: Strings
    templates: tuple[PathTemplate, ...]

    def __contains__(self, path: str) -> bool:
        if path in self.patterns:
            return True
        for template in self.templates:
            if template.matches(path):
                return True
        return False

    def __str__(self) -> str:
        return ", ".join(filter(None, [spelled(self.patterns), *map(str, self.templates)]))


Paths = Strings | PathPatterns
"""What a path is compared with."""


def read_paths(values: Iterable[str], *, wide: bool) -> tuple[Paths, Paths]:
    """Return the patterns for the path of a request itself, as `values` spell them, and those for its other readings.

    Other readings are canonical and decoded, and so are the patterns for them. Wide patterns are the same for both:
    they match every spelling of the values, also with one more slash at the end.
    """
    values = tuple(values)
    if wide:
        patterns = _sorted_paths(values, _equal_spellings, wide=True)
        return patterns, patterns
    written = written_paths(values)
    decoded = _sorted_paths(values, _decoded_spellings, wide=False)
    return written, written if written == decoded else decoded


def written_paths(values: Iterable[str]) -> Paths:
    """Return the patterns and templates as `values` spell them, for a path as it is."""
    return _sorted_paths(values, _as_written, wide=False)


def _sorted_paths(values: Iterable[str], spellings: Callable[[str], Iterable[str]], *, wide: bool) -> Paths:
    templates, plain = [], []
    for value in values:
        if is_template(value):
            templates += [PathTemplate(spelling, wide) for spelling in spellings(value)]
        else:
            plain.append(value)
    patterns = read_strings(plain, spellings)
    if wide:
        patterns = _also_with_slash(patterns)
    return PathPatterns(patterns, tuple(templates)) if templates else patterns


def _also_with_slash(patterns: Strings) -> Strings:
    if isinstance(patterns, frozenset):
        return frozenset(_with_slash(patterns))
    exact, suffixes = frozenset(_with_slash(patterns.exact)), tuple(_with_slash(patterns.suffixes))
    return replace(patterns, exact=exact, suffixes=suffixes)


def _with_slash(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield text
        if not text.endswith(("*", "/")):
            yield f"{text}/"


def _equal_spellings(text: str) -> Iterable[str]:
    spelling = _between_operators(canonical, text)
    return _in_any_case((text, spelling, spelling.replace("%2E", ".")))


def _decoded_spellings(text: str) -> Iterable[str]:
    spelling = _between_operators(canonical, text)
    found = {text: None, spelling: None}
    while (spelling := _between_operators(decoded, spelling)) not in found:
        found[spelling] = None
    return _in_any_case(found)


def _in_any_case(spellings: Iterable[str]) -> Iterable[str]:
    """Return the spellings, and each in lower case, as are the readings of a path that they are compared with."""
    found = tuple(spellings)
    return dict.fromkeys((*found, *map(str.lower, found)))


def _between_operators(respell: Callable[[str], str], text: str) -> str:
    """Return the text respelled, but for the operators of a template."""
    pieces = _OPERATORS.split(text)
    return "".join(piece if piece in {ONE_SEGMENT, ANY_SEGMENTS} else respell(piece) for piece in pieces)


def sample_path(value: str) -> str:
    """Return a path that the pattern or template is about, empty if there is none that it is about alone."""
    if is_template(value):
        return _OPERATORS.sub("x", value)
    if value.startswith("*"):
        return f"/x{value[1:]}"
    if value.endswith("*"):
        return "" if "%" in value[-3:] else f"{value[:-1]}x"  # a pattern may end inside of an escape
    return value


def matched_by(value: str, path: str, *, read: bool = False) -> bool:
    """Whether the pattern or template matches the path of a request, or with `read` another reading of it."""
    return path in read_paths([value], wide=False)[read]


def is_template(path: str) -> bool:
    """Whether `path` has an operator and so is a template and not a string pattern."""
    return ONE_SEGMENT in path or ANY_SEGMENTS in path


def template_problem(path: str) -> str:
    """Return what is wrong with the template, empty if nothing is."""
    if not path.startswith("/"):
        return "a path template must start with '/'"
    segments = path[1:].split("/")
    operators = [segment for segment in segments if segment in {ONE_SEGMENT, ANY_SEGMENTS}]
    if len(operators) > MAX_OPERATORS:
        return f"a path template must not have more than {MAX_OPERATORS} operators"
    if ANY_SEGMENTS in operators[:-1]:
        return "'{**}' must be the last operator of a path template"
    if "" in path.strip("/").split("/"):
        return "a path template must not have an empty segment: no '//'"
    for segment in segments:
        if segment not in {ONE_SEGMENT, ANY_SEGMENTS} and not _LITERAL.fullmatch(segment):
            return f"segment {segment!r} of a path template must be '{{*}}', '{{**}}' or literal, without '*' or braces"
    return ""


@dataclass(frozen=True, slots=True)
class AddressBlocks:
    """Address blocks, looked up once for each length of prefix among them.

    An IPv4 address and the same one written as IPv6 (`::ffff:10.1.2.3`) are two, as to Envoy; in wide blocks they are
    one.
    """

    blocks: tuple[IpNetwork, ...]
    wide: bool = False
    _tables: tuple[tuple[type[IpAddress], int, frozenset[int]], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        tables: dict[tuple[type[IpAddress], int], set[int]] = {}
        others = filter(None, map(other_form, self.blocks)) if self.wide else ()
        for block in (*self.blocks, *others):
            shift = block.max_prefixlen - block.prefixlen
            tables.setdefault((type(block.network_address), shift), set()).add(int(block.network_address) >> shift)
        object.__setattr__(self, "_tables", tuple((*key, frozenset(table)) for key, table in tables.items()))

    def __contains__(self, address: IpAddress) -> bool:
        number, kind = int(address), type(address)
        for each, shift, table in self._tables:
            if each is kind and number >> shift in table:
                return True
        return False

    def __str__(self) -> str:
        return ", ".join(map(str, self.blocks))
