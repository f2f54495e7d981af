"""Where the credentials of a request are: headers, parameters of the query, cookies."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from urllib.parse import unquote

from app.authz.model import CheckInput, Joined
from app.authz.rules.nodes import TARGET
from app.documents.reader import Reader

# The header in which most credentials are, and the prefix of a token in it (RFC 6750, section 2.1).
AUTHORIZATION, BEARER = "authorization", "Bearer "
COOKIE = "cookie"

HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
# What a parameter or cookie, and the prefix of a header's value, may have: what can be sent without an escape.
_VISIBLE = re.compile(r"[!-~]{1,256}")
# What parts cookies: in one header (RFC 6265, section 4.2), and where Envoy made one of several.
_IN_ONE, _IN_JOINED = re.compile(";"), re.compile("[;,]")
_PREFIX = re.compile(r"[ -~]{0,256}")

Located = tuple[str, str, str, tuple[str, ...]]
"""A credential: the kind of its place (`header`, `param` or `cookie`), the name of the place, its text, and, of a
parameter, how its name is spelled in the query."""
Params = Mapping[str, tuple[Sequence[str], tuple[str, ...]]]
"""The values of each parameter, in order, and how its name is spelled."""
Cookies = Mapping[str, Sequence[str]]
"""The values of each cookie, in order."""


def read_headers(rule: Reader) -> Iterator[tuple[str, str]]:
    """Yield lower-case name and prefix of the value of each header in `fromHeaders`."""
    for header in rule.children("fromHeaders"):
        name, prefix = header.text("name") or "", header.text("prefix") or ""
        if not HEADER.fullmatch(name):
            header.refuse("name", f"{name!r} is not the name of a header")
        if not _PREFIX.fullmatch(prefix):
            header.refuse("prefix", "must be up to 256 characters that a header can have")
        header.close()
        yield name.lower(), prefix


def read_names(rule: Reader, field: str) -> Iterator[str]:
    """Yield the names of parameters or cookies that are listed in the field."""
    for path, name in rule.texts(field):
        if not _VISIBLE.fullmatch(name):
            rule.problems.add(path, f"{name!r} is not a name of up to 256 visible characters")
        yield name


def is_withheld(request: CheckInput, headers: Iterable[str], *, cookies: bool) -> bool:
    """Whether it is not known if the request has one of the headers, or a cookie: the proxy would not forward it."""
    if request.forwarded_headers is None:
        return False
    return any(map(request.lacks, headers)) or (cookies and request.lacks(COOKIE))


def params_of(request: CheckInput, names: tuple[str, ...]) -> Params:
    """Return the parameters of the query, none at all if it has none of these names."""
    _, _, query = (request.headers.get(TARGET) or ("",))[0].partition("?")
    params: dict[str, tuple[list[str], tuple[str, ...]]] = {}
    if query and ("%" in query or any(name in query for name in names)):
        for pair in query.partition("#")[0].split("&"):
            spelling, _, value = pair.partition("=")
            name = unquote(spelling)
            values, spellings = params.get(name, ([], ()))
            values.append(unquote(value))
            params[name] = values, (*spellings, *({spelling} - set(spellings)))
    return params


def cookies_of(request: CheckInput) -> Cookies:
    """Return the cookies of a request."""
    cookies: dict[str, list[str]] = {}
    for pair in cookie_pairs(request):
        name, equals, value = pair.partition("=")
        if equals:
            quoted = len(value) > 1 and value[0] == value[-1] == '"'
            cookies.setdefault(name, []).append(value[1:-1] if quoted else value)
    return cookies


def cookie_pairs(request: CheckInput) -> Iterator[str]:
    """Yield the cookies of a request as they are written; of headers that the proxy may have joined, each one's."""
    headers = request.headers.get(COOKIE) or ()
    separators = _IN_JOINED if isinstance(headers, Joined) else _IN_ONE
    for header in headers:
        yield from map(str.strip, separators.split(header))
