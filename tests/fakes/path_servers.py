"""What servers make of the path of a request: the resource that they serve, as bytes, None if they refuse the request.

Each is written from how the server works and shares nothing with the code that it is compared with.
"""

import posixpath
import re
from urllib.parse import unquote_to_bytes


def decode(path: bytes) -> bytes:
    return unquote_to_bytes(path)


def decode_unreserved(path: bytes) -> bytes:
    return re.sub(rb"%(?:2[DEde]|3[0-9]|[46][1-9A-Fa-f]|5[0-9AFaf]|7[0-9AEae])", _decode, path)


def decode_slashes(path: bytes) -> bytes:
    return re.sub(rb"%(?:2[Ff]|5[Cc])", _decode, path)


def turn_backslashes(path: bytes) -> bytes:
    return path.replace(b"\\", b"/")


def merge_slashes(path: bytes) -> bytes:
    return re.sub(rb"/+", b"/", path)


def resolve_dots(path: bytes) -> bytes:
    """RFC 3986, section 5.2.4, by its steps."""
    left, done = path, b""
    while left:
        if left.startswith(b"/./") or left == b"/.":
            left = b"/" + left[3:]
        elif left.startswith(b"/../") or left == b"/..":
            left = b"/" + left[4:]
            done = done[: max(done.rfind(b"/"), 0)]
        else:
            end = left.find(b"/", 1)
            segment, left = (left, b"") if end < 0 else (left[:end], left[end:])
            done += segment
    return done


def _decode(escape: re.Match[bytes]) -> bytes:
    return unquote_to_bytes(escape[0])


def cut_parameters(path: bytes) -> bytes:
    return re.sub(rb";[^/]*", b"", path)


def cut_parameters_of_dots(path: bytes) -> bytes:
    return re.sub(rb"(/\.\.?);[^/]*", rb"\1", path)


def cut_query(path: bytes) -> bytes:
    return re.split(rb"[?#]", path, maxsplit=1)[0]


STEPS = (
    decode,
    decode_unreserved,
    decode_slashes,
    turn_backslashes,
    merge_slashes,
    resolve_dots,
    cut_parameters,
    cut_parameters_of_dots,
    cut_query,
)


def servlet_container(path: bytes) -> bytes | None:
    """As Tomcat and Jetty: parameters are cut, then escapes decoded, then the path is normalised."""
    served = merge_slashes(turn_backslashes(decode(cut_parameters(path))))
    depth = 0
    for segment in served.split(b"/"):
        depth += {b"..": -1, b".": 0, b"": 0}.get(segment, 1)
        if depth < 0:
            return None
    return resolve_dots(served)


def python_files(path: bytes) -> bytes | None:
    """As a server of files in Python: escapes are decoded and the path given to `posixpath.normpath`."""
    return _normalised(decode(path))


def python_files_undecoded(path: bytes) -> bytes | None:
    """The same where the path is decoded after it was normalised."""
    return decode(_normalised(path))


def _normalised(path: bytes) -> bytes:
    """A file that two slashes lead to is the one that a single slash leads to, which `normpath` leaves open."""
    return posixpath.normpath(path).replace(b"//", b"/")
