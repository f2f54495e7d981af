"""The values that fields of a policy may have, each read by one function that notes what is wrong with it."""

import re
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from typing import TypeVar

from app.authz.model import IpNetwork, Networks, Patterns, Ports
from app.authz.rules.kubernetes import is_namespace
from app.authz.rules.patterns import is_template, template_problem
from app.documents.reader import Problems, Reader

# Istio's bounds on service accounts.
MAX_SERVICE_ACCOUNTS = 16
MAX_SERVICE_ACCOUNT_LENGTH = 320

MAX_PORT = 65535
_MAX_PORT_DIGITS = 5
# Python reads more than Istio: masks (10.0.0.0/255.0.0.0), lengths with zeros before them, zones.
_BLOCK = re.compile(r"[0-9a-fA-F:.]+(/(0|[1-9][0-9]{0,2}))?")

Value = TypeVar("Value")
ReadValue = Callable[[str, str, Problems], Value | None]
"""Returns the value that a text spells, or None with the problem noted at the path."""


def read_patterns(reader: Reader, name: str, negated: str, read: ReadValue[str]) -> Patterns:
    """Return the strings of the two list fields `name` and `negated`."""
    return Patterns(tuple(_each(reader, name, read)), tuple(_each(reader, negated, read)))


def read_networks(reader: Reader, name: str, negated: str) -> Networks:
    """Return the address blocks of the two list fields."""
    return Networks(tuple(_each(reader, name, network)), tuple(_each(reader, negated, network)))


def read_ports(reader: Reader, name: str, negated: str) -> Ports:
    """Return the ports of the two list fields."""
    return Ports(tuple(_each(reader, name, port)), tuple(_each(reader, negated, port)))


def _each(reader: Reader, name: str, read: ReadValue[Value]) -> Iterator[Value]:
    for path, text in reader.texts(name):
        value = read(text, path, reader.problems)
        if value is not None:
            yield value


def text(value: str, path: str, problems: Problems) -> str | None:
    """Read any string that a request can hold."""
    if any(character < " " or character == "\x7f" for character in value):
        problems.add(path, "must not have control characters: no request can have them")
        return None
    return value


def host(value: str, path: str, problems: Problems) -> str | None:
    """Read a host or a pattern for one, in lower case."""
    return text(value.lower(), path, problems)


def path_pattern(value: str, path: str, problems: Problems) -> str | None:
    """Read a path, a pattern or a template."""
    if is_template(value):
        if problem := template_problem(value):
            problems.add(path, problem)
            return None
        return value
    if "{" in value or "}" in value:
        problems.add(path, "must not have braces other than the operators '{*}' and '{**}'")
        return None
    return text(value, path, problems)


def network(value: str, path: str, problems: Problems) -> IpNetwork | None:
    """Read an address or a CIDR block."""
    try:
        if _BLOCK.fullmatch(value):
            return ip_network(value, strict=False)
    except ValueError:
        pass
    problems.add(path, f"{value!r} is not an IP address or CIDR block, such as 10.0.0.0/8 or fd00::/8")
    return None


def port(value: str, path: str, problems: Problems) -> int | None:
    """Read a port, a string of digits."""
    digits = value.isascii() and value.isdecimal() and len(value) <= _MAX_PORT_DIGITS
    if not digits or not 1 <= int(value) <= MAX_PORT:
        problems.add(path, f"{value!r} is not a port: write a number from 1 to {MAX_PORT}, in quotes")
        return None
    return int(value)


def trust_domain(value: str, path: str, problems: Problems) -> str | None:
    """Read a trust domain or a pattern for one."""
    if "/" in value:
        problems.add(path, f"{value!r} is not a trust domain: it must not have a slash")
        return None
    if "*" in value[1:-1] or value.count("*") > 1:
        problems.add(path, f"{value!r} must have '*' only once, at its beginning or its end")
        return None
    return text(value, path, problems)


def service_account(policy_namespace: str) -> ReadValue[str]:
    """Return a reader of service accounts, `name` or `namespace/name`, that always returns the second form."""

    def read(value: str, path: str, problems: Problems) -> str | None:
        namespace, slash, name = value.rpartition("/")
        if len(value) > MAX_SERVICE_ACCOUNT_LENGTH or "*" in value:
            problems.add(path, f"must have up to {MAX_SERVICE_ACCOUNT_LENGTH} characters and no '*'")
        elif not name or (slash and not is_namespace(namespace)):
            problems.add(path, f"{value!r} is not a service account: write name or namespace/name")
        else:
            return text(f"{namespace or policy_namespace}/{name}", path, problems)
        return None

    return read
