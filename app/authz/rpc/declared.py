"""Which headers of a request the proxy's configuration says that a check has.

A check over HTTP has the headers that `allowed_headers` names and `disallowed_headers` does not, a check over gRPC has
all of them unless one of the two is set. The check itself does not tell, so the proxy's configuration does: names with
commas between them, `x-role, x-tenant-*` or `*, !connection, !x-internal-*`.
"""

import re
from collections.abc import Container
from dataclasses import dataclass
from functools import lru_cache

from app.authz.rules.patterns import Strings, read_strings
from app.core.errors import InvalidInputError

# A declaration is part of a proxy's configuration, and there are as many as ways to configure the proxies of a mesh.
MAX_KNOWN_DECLARATIONS = 256
MAX_DECLARATION_LENGTH = 8 * 1024

_ITEM = re.compile(r"(!?)([a-z0-9#$%&'+.^_`|~-]*\*?)")


@dataclass(frozen=True, slots=True)
class _Declared:
    forwarded: Strings
    withheld: Strings

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self.forwarded and name not in self.withheld


def read_forwarded(text: str) -> Container[str]:
    """Return the lower-case names of the headers that a check has if the request has them.

    An item of `text` is a name, `prefix*` or `*`; with `!` before it such headers are not forwarded although another
    item names them. Raises InvalidInputError if it is not written so, or is too long.
    """
    if len(text) > MAX_DECLARATION_LENGTH:
        raise InvalidInputError(f"the forwarded headers are longer than {MAX_DECLARATION_LENGTH} characters")
    return _read(text)


@lru_cache(maxsize=MAX_KNOWN_DECLARATIONS)
def _read(text: str) -> Container[str]:
    names: dict[str, list[str]] = {"": [], "!": []}
    for part in text.lower().split(","):
        item = _ITEM.fullmatch(part.strip())
        if item is None:
            raise InvalidInputError("the forwarded headers are not written as x-role, x-tenant-*, !x-tenant-secret")
        if item[2]:
            names[item[1]].append(item[2])
    return _Declared(read_strings(names[""]), read_strings(names["!"]))
