"""OPA's functions on text whose results in regorus are others (OPA's documentation, "Policy Reference").

Patterns are RE2's, as in OPA: in regorus a digit may be one of any script, and three classes of letters in one pattern
are too much for it. Where OPA's function has no value these raise, and the evaluation fails, which denies.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache, lru_cache, partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any
from urllib.parse import unquote_plus

from app.authz.backends.rego_glob import pattern_of

# Patterns and networks that are kept compiled; those of one set of policies are a few dozen.
MAX_KEPT = 256
# Bytes that a compiled pattern and its states may take.
MAX_PATTERN_MEMORY = 4 << 20
# Characters of a pattern; RE2 itself limits what repetition makes of it.
MAX_PATTERN = 4096

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,400})(?:\.[0-9]{1,400})?(?:[eE][+-]?[0-9]{1,3})?")
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_NETWORK = re.compile(r"[0-9A-Fa-f:.]+/[0-9]{1,3}")
# RE2 looks for it in bytes, OPA in characters.
_NO_BOUNDARY = re.compile(r"(?:[^\\]|\\[^B])*\\B.*", re.DOTALL)
_MALFORMED_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
# A group in the text that `regex.replace` puts in, and a dollar sign.
_GROUP = re.compile(r"\$(?:(\$)|([0-9A-Za-z_]+)|\{([0-9A-Za-z_]+)\})")
_DEFAULT_DELIMITERS = (".",)
_MAPPED_BITS = 96

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


class TextError(Exception):
    """An argument is none that the function has a value for."""


def functions() -> Iterator[tuple[str, int, Callable[..., Any]]]:
    """Yield the name of each function, how many arguments it has, and what it does."""
    yield "regex.match", 2, _match
    yield "regex.is_valid", 1, _is_valid
    yield "regex.split", 2, _split
    yield "regex.replace", 3, _replace
    yield "regex.find_n", 3, _find
    yield "regex.find_all_string_submatch_n", 3, _find_groups
    yield "glob.match", 3, _glob
    yield "lower", 1, _lower
    yield "upper", 1, _upper
    yield "to_number", 1, _to_number
    yield "urlquery.decode", 1, _decoded
    yield "net.cidr_contains", 2, _contains


def v0_functions() -> Iterator[tuple[str, int, Callable[..., Any]]]:
    """Yield those that Rego had before its version 1, as `functions` does."""
    yield "any", 1, lambda values: any(each is True for each in _list(values))
    yield "all", 1, lambda values: all(each is True for each in _list(values))
    yield "re_match", 2, _match
    yield "net.cidr_overlap", 2, _contains


@cache
def _options() -> Any:
    try:
        import re2  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise RuntimeError("RE2 is not installed: install meshward[rego]") from error
    options: Any = re2.Options()
    options.log_errors, options.max_mem = False, MAX_PATTERN_MEMORY
    return options


@lru_cache(MAX_KEPT)
def _compiled(pattern: str) -> Any:
    options = _options()
    import re2  # noqa: PLC0415 - as above

    if len(pattern) > MAX_PATTERN:
        raise TextError(f"a pattern is longer than {MAX_PATTERN} characters")
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        raise TextError(f"{pattern[:80]!r} is no regular expression") from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TextError("an argument is not a string")
    return value


def _pattern_for(pattern: object, text: str) -> Any:
    """Return the compiled pattern that a text is matched by. Raises TextError if there is none that OPA would have."""
    found = _text(pattern)
    if not text.isascii() and _NO_BOUNDARY.fullmatch(found):
        raise TextError("a pattern has \\B, which is not supported for text that is not ASCII")
    return _compiled(found)


def _list(value: object) -> Iterable[Any]:
    if not isinstance(value, list | set | frozenset):
        raise TextError("an argument is neither an array nor a set")
    return value


def _match(pattern: object, value: object) -> bool:
    text = _text(value)
    return _pattern_for(pattern, text).search(text) is not None


def _is_valid(pattern: object) -> bool:
    try:
        _compiled(_text(pattern))
    except TextError:
        return False
    return True


def _matches(pattern: object, text: str, most: object = -1) -> Iterator[Any]:
    """Yield at most so many matches, all of them if that is negative; none is empty right after another."""
    if isinstance(most, bool) or not isinstance(most, int):
        raise TextError("the number of matches is not an integer")
    end = -1
    for found in _pattern_for(pattern, text).finditer(text):
        if most == 0:
            return
        if found.end() > found.start() or found.start() != end:
            most -= 1
            yield found
        end = found.end()


def _find(pattern: object, value: object, most: object) -> list[str]:
    return [found[0] for found in _matches(pattern, _text(value), most)]


def _find_groups(pattern: object, value: object, most: object) -> list[list[str]]:
    return [[found[0], *(group or "" for group in found.groups())] for found in _matches(pattern, _text(value), most)]


def _split(pattern: object, value: object) -> list[str]:
    text, at = _text(value), 0
    matches = list(_matches(pattern, text))
    if not text:
        return [""] if pattern else []
    parts: list[str] = []
    for found in matches:
        if found.end() == 0:
            continue
        if found.start() == found.end() == len(text):
            break
        parts.append(text[at : found.start()])
        at = found.end()
    return [*parts, text[at:]]


def _replace(value: object, pattern: object, by: object) -> str:
    text, template, at = _text(value), _text(by), 0
    parts: list[str] = []
    for found in _matches(pattern, text):
        parts += text[at : found.start()], _GROUP.sub(partial(_group, found), template)
        at = found.end()
    return "".join([*parts, text[at:]])


def _group(found: Any, named: "re.Match[str]") -> str:
    dollar, *names = named.groups()
    if dollar:
        return "$"
    name = names[0] or names[1]
    try:
        return found[int(name) if name.isdigit() else name] or ""
    except IndexError:
        return ""


def _glob(pattern: object, delimiters: object, value: object) -> bool:
    if delimiters is None:
        given: tuple[str, ...] = ()
    elif isinstance(delimiters, list):
        given = tuple(map(_text, delimiters)) or _DEFAULT_DELIMITERS
    else:
        raise TextError("the delimiters are not an array")
    return _compiled(_of_glob(_text(pattern), given)).search(_text(value)) is not None


@lru_cache(MAX_KEPT)
def _of_glob(pattern: str, delimiters: tuple[str, ...]) -> str:
    if any(len(each) != 1 for each in delimiters):
        raise TextError("a delimiter is not one character")
    if len(pattern) + len(delimiters) > MAX_PATTERN:
        raise TextError(f"a glob and its delimiters are longer than {MAX_PATTERN} characters")
    return pattern_of(pattern, delimiters)


def _lower(value: object) -> str:
    """Return the text in lower case, each character by itself and as one (Unicode's simple mapping)."""
    # Of all characters the first becomes two by Unicode's full mapping, and the second depends on what is beside it.
    return _text(value).replace("\u0130", "i").replace("\u03a3", "\u03c3").lower()


def _upper(value: object) -> str:
    text = _text(value)
    return text.upper() if text.isascii() else "".join(map(_upper_of, text))


def _upper_of(character: str) -> str:
    # Where upper case has several characters, title case is what the simple mapping has, if it has one.
    for found in (character.upper(), character.title()):
        if len(found) == 1:
            return found
    return character


def _to_number(value: object) -> int | float:
    if isinstance(value, bool) or value is None:
        return int(bool(value))
    if isinstance(value, int | float):
        return value
    text = _text(value)
    if _INTEGER.fullmatch(text) and _NUMBER.fullmatch(text):
        return int(text)
    number = float(text) if _NUMBER.fullmatch(text) else float("inf")
    if number in {float("inf"), float("-inf")}:
        raise TextError("a text is no number")
    return number


def _decoded(value: object) -> str:
    text = _text(value)
    if _MALFORMED_ESCAPE.search(text):
        raise TextError("a text has a malformed escape")
    return unquote_plus(text)


def _contains(network: object, inner: object) -> bool:
    outer, text = _network(_text(network)), _text(inner)
    if "/" not in text:
        address = _address(text)
        return address.version == outer.version and address in outer
    within = _network(text)
    return within.version == outer.version and within[0] in outer and within[-1] in outer


@lru_cache(MAX_KEPT)
def _network(text: str) -> Network:
    if _NETWORK.fullmatch(text) is None:
        raise TextError("a text is no network in CIDR notation")
    try:
        found = ip_network(text, strict=False)
    except ValueError as error:
        raise TextError("a text is no network in CIDR notation") from error
    address = found.network_address
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return IPv4Network((address.ipv4_mapped, max(0, found.prefixlen - _MAPPED_BITS)), strict=False)
    return found


def _address(text: str) -> Address:
    """Return an address, that of IPv4 where one of IPv6 stands for it."""
    try:
        found = ip_address(text)
    except ValueError as error:
        raise TextError("a text is no address") from error
    if isinstance(found, IPv4Address):
        return found
    if found.scope_id is not None:
        raise TextError("a text is no address")
    return found.ipv4_mapped or found
