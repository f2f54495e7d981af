"""Names of hosts as servers read them: the authority of a request, and the server name of a TLS connection.

Istio compares an authority without regard to case, but with its port and with the dot that ends a fully qualified name.
The proxy may have the server name in lower case or as the client sent it.
"""

import re
from collections.abc import Iterable, Iterator

# RFC 3986 allows a comma in a host. No name has one, and Envoy joins two Host headers with it.
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_~!$&'()*+;=.-]*[a-z0-9_~!$&'()*+;=-])\.?(:[0-9]{1,5})?")


def is_authority(text: str) -> bool:
    """Whether the text is a host in lower case, with a port or without, and no user information (RFC 3986, 3.2)."""
    return _AUTHORITY.fullmatch(text) is not None


def without_port(host: str) -> str:
    """Return the authority without its port, if it has one; the colons of an IPv6 address stand in brackets."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host


def without_dot(host: str) -> str:
    """Return the authority without the dot that ends its name, if it has one."""
    name = without_port(host)
    return f"{name.removesuffix('.')}{host[len(name) :]}" if name.endswith(".") else host


def authority_readings(host: str) -> tuple[str, ...]:
    """Return the authority in lower case as it is, and without its port, its last dot and both if it has them."""
    if ":" not in host and not host.endswith("."):
        return (host,)
    name = without_port(host)
    return tuple(dict.fromkeys((host, name, name.removesuffix("."), without_dot(host))))


def server_name_readings(name: str) -> tuple[str, ...]:
    """Return the server name as it is, in lower case, and without the dot at its end."""
    lowered = name.lower()
    if lowered.endswith("."):
        return name, lowered, lowered[:-1]
    return (name,) if lowered == name else (name, lowered)


def spellings_of(patterns: Iterable[str]) -> Iterator[str]:
    """Yield the patterns for names, and those without a last dot and in lower case that match the same names."""
    for pattern in patterns:
        yield pattern
        lowered = pattern.lower()
        # A dot before a star at the end is not the last one, and `*.` is about nothing else.
        yield without_dot(lowered) if lowered.strip("*.") else lowered
