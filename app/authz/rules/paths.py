"""The ways in which a server may read the path of a request.

A proxy and the server behind it often disagree on `//`, `%2F`, backslashes and `;parameters`, and on what they resolve
first. The readings of a path are all that these steps make of it, in every order and any number of times, and each of
them in lower case.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote

# Paths that were read recently. Longer ones are not kept, which bounds the memory that hostile input can take.
READING_CACHE_SIZE = 4096
MAX_CACHED_LENGTH = 256
# Servers refuse longer request targets: 8 KiB is nginx's and Tomcat's default for the request line.
MAX_PATH_LENGTH = 8 * 1024
# Readings of one path, each of which is evaluated. A path with an encoded slash, a double slash, a parameter and a dot
# segment has 16; what has more is written to be misread.
MAX_READINGS = 20
# Characters of all readings of one path together, which bounds the time that making them takes.
MAX_READ_CHARACTERS = 2 * MAX_PATH_LENGTH

_ORDINARY = re.compile(r"(?:/(?!\.)[A-Za-z0-9._~!$&'()*+,=:@-]+)+/?|/")
_BAD_CHARACTER = re.compile(r"[^\x21-\x7e]")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL_ESCAPE = re.compile(r"%(?:[01][0-9A-Fa-f]|7[Ff])")
_HIGH_ESCAPES = re.compile(r"(?:%[89A-Fa-f][0-9A-Fa-f])+")
# What a path cannot hold (RFC 3986, section 3.3), but for the backslash, which servers take for a slash.
_NO_PATH_CHARACTER = re.compile(r"[^A-Za-z0-9\-._~!$&'()*+,;=:@/%\\]")
_SLASHES = re.compile(r"//+")
_PARAMETERS = re.compile(r";[^/]*")
_PARAMETERS_OF_DOTS = re.compile(r"(?:(?<=/\.)|(?<=/\.\.));[^/]*")
_QUERY_OR_FRAGMENT = re.compile(r"%3F|%23")
_ESCAPED_ESCAPE = re.compile(r"%25(?=[0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
# Characters that mean the same where they are escaped, because no server looks for them in a path.
_HARMLESS = _UNRESERVED - {"."} | frozenset("!$&'()*+,=:@")
_DIGITS = [first + second for first in "0123456789abcdefABCDEF" for second in "0123456789abcdefABCDEF"]
_AS_ENVOY = {digits: chr(int(digits, 16)) for digits in _DIGITS if chr(int(digits, 16)) in _UNRESERVED}
_AS_CANONICAL = {
    digits: chr(int(digits, 16)) if chr(int(digits, 16)) in _HARMLESS else f"%{digits.upper()}" for digits in _DIGITS
}


@dataclass(frozen=True, slots=True)
class PathReading:
    """`path` as it is, and the `others` that differ from it; or `problem` says why there is none."""

    path: str = ""
    others: tuple[str, ...] = ()
    problem: str = ""


def read_path(target: str) -> PathReading:
    """Return the readings of a request target in origin form, whose query, if it has one, is left out."""
    path = target.partition("?")[0]
    return _read(path) if len(path) > MAX_CACHED_LENGTH else _cached(path)


def canonical(path: str) -> str:
    """Return the path spelled so that two paths that no server distinguishes are spelled the same.

    A character that may stand in a path stands there, any other is an escape in upper case. Escapes of slashes,
    backslashes, `.`, `;` and `%` stay, because servers disagree on them.
    """
    path = _respelled(path, _AS_CANONICAL)
    for character in dict.fromkeys(_NO_PATH_CHARACTER.findall(path)):
        path = path.replace(character, quote(character))
    return path


def decoded(path: str) -> str:
    """Return a canonical path with its escapes decoded once more; what cannot stand in a path stays escaped."""
    if "%" not in path:
        return path
    path = path.replace("%2F", "/").replace("%5C", "\\").replace("%2E", ".").replace("%3B", ";")
    return canonical(_ESCAPED_ESCAPE.sub("%", path)) if "%25" in path else path


def _read(path: str) -> PathReading:
    if len(path) > MAX_PATH_LENGTH:
        return PathReading(problem=f"the path is longer than {MAX_PATH_LENGTH} characters")
    if _ORDINARY.fullmatch(path):
        return PathReading(path, _in_any_case(path))
    if problem := _problem(path):
        return PathReading(problem=problem)
    others, problem = _readings(canonical(path))
    if problem:
        return PathReading(problem=problem)
    return PathReading(path, _in_any_case(path, normalised(path), *others))


def _in_any_case(path: str, *others: str) -> tuple[str, ...]:
    """Return the other readings of a path, and all readings in lower case: many servers ignore the case of letters."""
    readings = (path, *others)
    return tuple(each for each in dict.fromkeys((*readings, *map(str.lower, readings))) if each != path)


def _readings(path: str) -> tuple[Iterable[str], str]:
    """Return all that the steps make of a canonical path, or what is wrong with one of them."""
    found = {path: None}
    pending = [path]
    characters = len(path)
    while pending:
        reading = pending.pop()
        for step in _STEPS:
            other = step(reading)
            if other in found:
                continue
            characters += len(other)
            if len(found) >= MAX_READINGS or characters > MAX_READ_CHARACTERS:
                return (), "the path can be read in too many ways"
            if step is decoded and (problem := _escape_problem(other)):
                return (), problem
            found[other] = None
            pending.append(other)
    return found, ""


_cached = lru_cache(maxsize=READING_CACHE_SIZE)(_read)


def _problem(path: str) -> str:
    """Return why servers would not agree on how to read the path, empty if they would."""
    if not path.startswith("/"):
        return "the path does not start with '/'"
    if "#" in path:
        return "the path has a fragment"
    if _BAD_CHARACTER.search(path):
        return "the path has a character that is not visible ASCII"
    if _BAD_ESCAPE.search(path):
        return "the path has a malformed percent escape"
    return _escape_problem(path)


def _escape_problem(path: str) -> str:
    if _CONTROL_ESCAPE.search(path):
        return "the path has an escaped control character"
    try:
        # An escaped slash between two runs, so that the end of one does not continue in the other.
        bytes.fromhex("2f".join(_HIGH_ESCAPES.findall(path)).replace("%", "")).decode()
    except UnicodeDecodeError:
        return "the path has escapes that are not UTF-8"
    return ""


def normalised(path: str) -> str:
    """Return the path as Envoy normalises it, which Istio's policies are compared with; unchanged if Envoy has."""
    return _without_dot_segments(_respelled(path, _AS_ENVOY).replace("\\", "/"))


def _respelled(path: str, spellings: Mapping[str, str]) -> str:
    """Return the path with each escape spelled as its digits are in `spellings`; those that are not there stay."""
    if "%" not in path:
        return path
    first, *parts = path.split("%")
    return first + "".join([(spellings.get(part[:2]) or f"%{part[:2]}") + part[2:] for part in parts])


def _with_dots_decoded(path: str) -> str:
    return path.replace("%2E", ".") if "%" in path else path


def _with_slashes_decoded(path: str) -> str:
    """Decode slashes alone, as Envoy's `UNESCAPE_AND_FORWARD`."""
    return path.replace("%2F", "/").replace("%5C", "\\") if "%" in path else path


def _with_slashes_for_backslashes(path: str) -> str:
    return path.replace("\\", "/")


def _with_slashes_merged(path: str) -> str:
    return _SLASHES.sub("/", path) if "//" in path else path


def _without_parameters(path: str) -> str:
    return _PARAMETERS.sub("", path) if ";" in path else path


def _without_parameters_of_dots(path: str) -> str:
    """Take `..;x` for `..`, as Envoy does, and leave the parameters of other segments."""
    return _PARAMETERS_OF_DOTS.sub("", path) if ";" in path else path


def _without_query(path: str) -> str:
    """Cut the path where a `?` or `#` was decoded."""
    return _QUERY_OR_FRAGMENT.split(path, 1)[0] if "%" in path else path


def _without_dot_segments(path: str) -> str:
    """Resolve `.` and `..` (RFC 3986, section 5.2.4); `..` stops at the root."""
    if "/." not in path:
        return path
    segments = path[1:].split("/")
    kept: list[str] = []
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in {".", ".."}:
        kept.append("")
    return "/" + "/".join(kept)


_STEPS: tuple[Callable[[str], str], ...] = (
    decoded,
    _with_dots_decoded,
    _with_slashes_decoded,
    _with_slashes_for_backslashes,
    _with_slashes_merged,
    _without_dot_segments,
    _without_parameters,
    _without_parameters_of_dots,
    _without_query,
)
