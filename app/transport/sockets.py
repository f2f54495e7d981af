"""Binding listeners, with a clear error for each way in which it fails."""

import errno
import socket

from app.core.errors import InvalidInputError, PreconditionError
from app.core.net import Address

BACKLOG = 1024


def listen(bind: Address) -> socket.socket:
    """Return a listening TCP socket on `bind`.

    Raises InvalidInputError if the address is not one of this machine's, PreconditionError if the port is taken or may
    not be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            bind.host, bind.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise InvalidInputError(f"cannot listen on {bind}: there is no host {bind.host!r}") from error
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
        raise _explained(error, bind) from error
    return listener


def _explained(error: OSError, bind: Address) -> InvalidInputError | PreconditionError:
    port, host = bind.port, bind.host
    if error.errno == errno.EADDRINUSE:
        return PreconditionError(f"port {port} on {host} is in use by another process: stop it or choose another port")
    if error.errno == errno.EACCES:
        return PreconditionError(f"port {port} on {host} may not be used without privileges: choose one above 1023")
    if error.errno == errno.EADDRNOTAVAIL:
        return InvalidInputError(f"{host} is not an address of this machine")
    return PreconditionError(f"cannot listen on {bind}: {error.strerror}")
