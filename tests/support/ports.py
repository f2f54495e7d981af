"""Ports for processes that cannot bind one of their own choice."""

import random
import socket

# Below those that Linux gives to connections, one of which could take a port before its process does.
FIRST, LAST = 16_000, 32_000


def free_ports(number):
    """Return so many ports that nothing is bound to."""
    found: list[int] = []
    for port in random.sample(range(FIRST, LAST), LAST - FIRST):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == number:
            break
    return found
