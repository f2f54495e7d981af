"""Network addresses, where a listener binds and a client connects, and DNS names."""

import os
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from app.core.errors import InvalidInputError

MAX_PORT = 65_535
# RFC 1035, section 2.3.4.
MAX_DNS_NAME_LENGTH = 253
# A DNS name, a colon and a port.
MAX_ADDRESS_LENGTH = MAX_DNS_NAME_LENGTH + 6
# What the kernel has room for in a socket address, less the final zero (unix(7), sun_path).
MAX_SOCKET_PATH_BYTES = 107
UNIX = "unix:"

_ADDRESS = re.compile(r"(?:\[(?P<ipv6>[^\[\]]*)\]|(?P<host>[^:\[\]]+))(?::(?P<port>[0-9]{1,5}))?")
# Labels of up to 63 characters, RFC 1035, section 2.3.4; an underscore is no one's host name but many a container's.
_HOST = re.compile(r"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")
_DNS_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address. `host` is an IP address (IPv6 without brackets) or a name; to bind to port 0 takes a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_name(self) -> bool:
        """Whether the host is a name that has to be resolved."""
        return ip_of(self.host) is None

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return is_loopback(self.host)

    @property
    def url(self) -> str:
        """The address as the start of an HTTP URL, without a trailing slash."""
        return f"http://{self}"


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """The absolute path of a Unix socket."""

    path: str

    def __str__(self) -> str:
        return f"{UNIX}{self.path}"


def is_dns_label(text: str) -> bool:
    """Whether `text` is one label of a host name, in lower case (RFC 1123, section 2.1)."""
    return _DNS_LABEL.fullmatch(text) is not None


def is_dns_name(text: str) -> bool:
    """Whether `text` is a host name, in lower case and without a final dot (RFC 1123, section 2.1)."""
    return len(text) <= MAX_DNS_NAME_LENGTH and all(is_dns_label(label) for label in text.split("."))


def parse_address(text: str, *, default_port: int | None = None, allow_port_0: bool = False) -> Address:
    """Return the address of `host:port` or `[IPv6]:port`; the port may be `default_port`. Raises InvalidInputError."""
    match = _ADDRESS.fullmatch(text) if len(text) <= MAX_ADDRESS_LENGTH else None
    port = (match["port"] or default_port) if match else None
    if match is None or port is None or int(port) > MAX_PORT:
        if _is_ipv6(text) or _is_ipv6(text.rpartition(":")[0]):
            raise _malformed(text, "has an IPv6 address without brackets")
        raise _malformed(text, f"is not host:port with a port up to {MAX_PORT}")
    if not int(port) and not allow_port_0:
        raise _malformed(text, "has port 0")
    host = match["host"] or match["ipv6"]
    if not (_HOST.fullmatch(host) if match["host"] else _is_ipv6(host)):
        raise _malformed(text, f"is not an address: {host!r} is neither an address nor the name of a host")
    return Address(host, int(port))


def parse_endpoint(text: str, *, allow_port_0: bool = False) -> Address | UnixSocket:
    """Return the Unix socket of `unix:/path`, or the address as `parse_address` does. Raises InvalidInputError."""
    if text.startswith(UNIX):
        return UnixSocket(parse_socket_path(text.removeprefix(UNIX)))
    return parse_address(text, allow_port_0=allow_port_0)


def parse_socket_path(text: str) -> str:
    """Return `text` if it can be the path of a Unix socket. Raises InvalidInputError."""
    if not text.startswith("/") or "\0" in text or len(os.fsencode(text)) > MAX_SOCKET_PATH_BYTES:
        shown = text[:MAX_ADDRESS_LENGTH]
        raise InvalidInputError(f"{shown!r} is not an absolute path of up to {MAX_SOCKET_PATH_BYTES} bytes")
    return text


def is_loopback(host: str) -> bool:
    """Whether `host`, an IP address or a name, stands for this machine alone."""
    address = ip_of(host)
    return host == "localhost" if address is None else address.is_loopback


def ip_of(host: str) -> IPv4Address | IPv6Address | None:
    """Return the IP address that `host` is, None if it is none."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def _is_ipv6(host: str) -> bool:
    return isinstance(ip_of(host), IPv6Address)


def _malformed(text: str, problem: str) -> InvalidInputError:
    example = "write host:port, such as mesh.example.org:15012, with an IPv6 address in brackets, as [::1]:15012"
    return InvalidInputError(f"{text[:MAX_ADDRESS_LENGTH]!r} {problem}: {example}")
