"""Binding listeners, with one clear sentence for each way in which it fails."""

import errno
import re
import socket
from ipaddress import IPv6Address, ip_address

from app.core.errors import InvalidInputError, PreconditionError

MAX_PORT = 65_535
BACKLOG = 1024
# A DNS name of 253 characters, a colon and a port.
MAX_BIND_LENGTH = 259

_PORT = re.compile(r"[0-9]{1,5}")
_HOST = re.compile(r"[a-zA-Z0-9._-]{1,253}")


def parse_bind(bind: str) -> tuple[str, int]:
    """Return host and port of `host:port` or `[v6]:port`. Raises InvalidInputError."""
    host, _, port = bind.rpartition(":")
    if len(bind) > MAX_BIND_LENGTH or not host or not _PORT.fullmatch(port) or int(port) > MAX_PORT:
        raise InvalidInputError(
            f"bind address {bind[:MAX_BIND_LENGTH]!r} is not host:port, such as 127.0.0.1:15010 or [::]:15012, "
            f"with a port up to {MAX_PORT}"
        )
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if _is_ipv6(host):
            return host, int(port)
    elif _HOST.fullmatch(host):
        return host, int(port)
    elif _is_ipv6(host):
        raise InvalidInputError(f"bind address {bind!r}: write an IPv6 address in brackets, as [{host}]:{port}")
    raise InvalidInputError(f"bind address {bind!r}: {host!r} is neither an address nor the name of a host")


def _is_ipv6(host: str) -> bool:
    try:
        IPv6Address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether listening on `host` can be reached from this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(bind: str) -> socket.socket:
    """Return a listening TCP socket on `bind`.

    Raises InvalidInputError if the address is malformed or not one of this machine's, PreconditionError if the port is
    taken or may not be used.
    """
    host, port = parse_bind(bind)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise InvalidInputError(f"bind address {bind!r}: there is no host {host!r}") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted connections inherit it: an answer must not wait for the acknowledgement of the one before.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise _explained(error, host, port) from error
    return listener


def _explained(error: OSError, host: str, port: int) -> InvalidInputError | PreconditionError:
    if error.errno == errno.EADDRINUSE:
        return PreconditionError(f"port {port} on {host} is in use by another process: stop it or choose another port")
    if error.errno == errno.EACCES:
        return PreconditionError(f"port {port} on {host} may not be used without privileges: choose one above 1023")
    if error.errno == errno.EADDRNOTAVAIL:
        return InvalidInputError(f"{host} is not an address of this machine")
    return PreconditionError(f"cannot listen on {host}:{port}: {error.strerror}")
