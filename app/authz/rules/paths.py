"""How a server may read the path of a request: normalised (RFC 3986, section 6.2.2), and in every laxer way.

A proxy and the server behind it often disagree on `//`, `%2F`, backslashes and `;parameters`. Rules are evaluated for
each reading that differs, and the request must pass under all of them.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote

# Paths that were read recently. Longer ones are not kept, which bounds the memory that hostile input can take.
READING_CACHE_SIZE = 4096
MAX_CACHED_LENGTH = 256
# Escapes of escapes that are followed; no server decodes more often, and each time is a pass over the path.
MAX_DECODINGS = 3

_ORDINARY = re.compile(r"(?:/(?!\.)[A-Za-z0-9._~!$&'()*+,=:@-]+)+/?|/")
_BAD_CHARACTER = re.compile(r"[^\x21-\x7e]")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_ESCAPED_ESCAPE = re.compile(r"%25(?=[0-9A-Fa-f]{2})")
_HIGH_ESCAPES = re.compile(r"(?:%[89A-Fa-f][0-9A-Fa-f])+")
_SLASH_ESCAPE = re.compile(r"%2[Ff]|%5[Cc]|\\")
_SLASHES = re.compile(r"//+")
_PARAMETERS = re.compile(r";[^/]*")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_FIRST_PRINTABLE = 0x20
_DELETE = 0x7F


@dataclass(frozen=True, slots=True)
class PathReading:
    """`path` is the normalised path and `others` the readings that differ; or `problem` says why there is none."""

    path: str = ""
    others: tuple[str, ...] = ()
    problem: str = ""


def read_path(target: str) -> PathReading:
    """Return the readings of a request target in origin form, whose query, if it has one, is left out."""
    path = target.partition("?")[0]
    return _read(path) if len(path) > MAX_CACHED_LENGTH else _cached(path)


def spelled_as_read(pattern: str) -> str:
    """Return a policy's path spelled as `read_path` spells a request's, so that escapes in both can be compared.

    What a path cannot hold as it is, such as an umlaut or a space, becomes the escapes that clients send for it.
    """
    return _unescaped(_BAD_CHARACTER.sub(lambda found: quote(found[0], safe=""), pattern))


def _read(path: str) -> PathReading:
    if _ORDINARY.fullmatch(path):
        return PathReading(path)
    if problem := _problem(path):
        return PathReading(problem=problem)
    base = _without_dot_segments(_unescaped(path).replace("\\", "/"))
    readings = [_SLASHES.sub("/", base), _decoded(base)]
    for _ in range(MAX_DECODINGS):
        if not _ESCAPED_ESCAPE.search(readings[-1]):
            break
        readings.append(_decoded(_unescaped(_ESCAPED_ESCAPE.sub("%", readings[-1]))))
    else:
        return PathReading(problem=f"the path is percent-encoded more than {MAX_DECODINGS} times over")
    readings.append(_decoded(_PARAMETERS.sub("", readings[-1])))
    return PathReading(base, tuple(dict.fromkeys(reading for reading in readings if reading != base)))


def _decoded(path: str) -> str:
    """Read escaped slashes and backslashes as slashes, several slashes as one, and resolve what that brings up."""
    return _without_dot_segments(_SLASHES.sub("/", _SLASH_ESCAPE.sub("/", path)))


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
    for escape in _ESCAPE.finditer(path):
        byte = int(escape[1], 16)
        if byte < _FIRST_PRINTABLE or byte == _DELETE:
            return "the path has an escaped control character"
    for run in _HIGH_ESCAPES.finditer(path):
        try:
            bytes.fromhex(run[0].replace("%", "")).decode()
        except UnicodeDecodeError:
            return "the path has escapes that are not UTF-8"
    return ""


def _unescaped(path: str) -> str:
    """Decode escapes of unreserved characters and put the others in upper case: once, never twice."""
    return _ESCAPE.sub(_unescape, path)


def _unescape(escape: re.Match[str]) -> str:
    byte = int(escape[1], 16)
    return chr(byte) if byte in _UNRESERVED else escape[0].upper()


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
