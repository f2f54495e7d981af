"""Which ports the demo listens on: the usual ones where they are free, others where they are not."""

import socket
from collections.abc import Mapping
from contextlib import ExitStack

from app.core.errors import UnavailableError
from app.core.net import Address

HOST = "127.0.0.1"


def choose_addresses(usual: Mapping[str, int]) -> dict[str, Address]:
    """Return a free address on this machine for each name, its usual port if that is free.

    All are held until the last is chosen, so that no two are the same. Another process may still take one before it
    is used: whoever starts the listeners starts again with other ports then. Raises UnavailableError if none is free.
    """
    with ExitStack() as held:
        return {name: Address(HOST, _hold(held, port)) for name, port in usual.items()}


def _hold(held: ExitStack, port: int) -> int:
    for candidate in (port, 0):
        listener = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        # As the listeners themselves do: connections that have just ended do not keep a port from being used.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, candidate))
        except OSError:
            continue
        chosen: int = listener.getsockname()[1]
        return chosen
    raise UnavailableError(f"no free port on {HOST}: end some of the programs that listen there")
