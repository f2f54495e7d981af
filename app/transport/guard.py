"""Closing connections to a mesh port whose peers have proven nothing, so that they cannot keep sidecars out.

The server gives a connection to the application with its first request. Before that only the kernel has it, so the
sockets are found among the process's own descriptors.
"""

import os
import socket
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from app.transport.grpc.connection import Connection
from app.transport.grpc.peer import UNIX

# A client that connects sends a request at once: its handshake and its first request are done in a fraction of this.
FIRST_REQUEST_SECONDS = 10.0
# How long a peer that has proven nothing keeps a connection without a request. Probes come every few seconds.
UNPROVEN_IDLE_SECONDS = 30.0
# Connections of one address that have proven nothing: agents that enrol behind one NAT gateway.
MAX_UNPROVEN_PER_ADDRESS = 128
# The share of all connections that those which have proven nothing may take.
UNPROVEN_SHARE = 0.5
# What is younger is not counted: a sidecar that connects proves itself within this.
COUNTED_AFTER_SECONDS = 1.0

_DESCRIPTORS = Path("/dev/fd")


class Reason(Enum):
    """Why a connection is closed."""

    NO_REQUEST = "no_request"
    IDLE = "idle"
    ADDRESS_LIMIT = "address_limit"
    PORT_LIMIT = "port_limit"


@dataclass(frozen=True, slots=True)
class Unproven:
    """A connection whose peer has proven nothing.

    `inode` identifies its socket, `accepted_at` is when it was first seen. `idle_since` is when its last request ended,
    None while one is answered or if there was none; `requested` is whether there was one.
    """

    inode: int
    host: str
    accepted_at: float
    requested: bool = False
    idle_since: float | None = None


def connections_to_close(unproven: Iterable[Unproven], now: float, max_connections: int) -> Mapping[int, Reason]:
    """Return the inodes of the connections to close at `now`, each with the reason.

    Of those beyond the limit of an address the newest are closed; beyond the share of the port, the oldest that have
    made no request, then the oldest.
    """
    closed: dict[int, Reason] = {}
    counted: list[Unproven] = []
    per_host: Counter[str] = Counter()
    for each in sorted(unproven, key=lambda each: each.accepted_at):
        if not each.requested and now - each.accepted_at >= FIRST_REQUEST_SECONDS:
            closed[each.inode] = Reason.NO_REQUEST
        elif each.idle_since is not None and now - each.idle_since >= UNPROVEN_IDLE_SECONDS:
            closed[each.inode] = Reason.IDLE
        elif now - each.accepted_at >= COUNTED_AFTER_SECONDS:
            per_host[each.host] += 1
            if per_host[each.host] > MAX_UNPROVEN_PER_ADDRESS:
                closed[each.inode] = Reason.ADDRESS_LIMIT
            else:
                counted.append(each)
    excess = len(counted) - int(max_connections * UNPROVEN_SHARE)
    for each in sorted(counted, key=lambda each: (each.requested, each.accepted_at))[: max(0, excess)]:
        closed[each.inode] = Reason.PORT_LIMIT
    return closed


@dataclass(frozen=True, slots=True)
class _Accepted:
    inode: int
    host: str
    port: int
    seen_at: float


class AcceptedSockets:
    """The connections that the process has accepted from `listener`."""

    def __init__(self, listener: socket.socket) -> None:
        self._local = _local_part(listener)
        self._own_inode = os.fstat(listener.fileno()).st_ino
        # What each socket of the process is, by descriptor and inode: None if it is not one of the port's.
        self._known: dict[tuple[int, int], _Accepted | None] = {}

    def scan(self, now: float) -> None:
        """Look at the process's descriptors. What was not there at the last scan was accepted since."""
        found: dict[tuple[int, int], _Accepted | None] = {}
        for descriptor, inode in _sockets():
            key = descriptor, inode
            found[key] = self._known[key] if key in self._known else self._identify(descriptor, inode, now)
        self._known = found

    def __len__(self) -> int:
        return sum(accepted is not None for accepted in self._known.values())

    def unproven(self, connections: Iterable[Connection]) -> Iterator[Unproven]:
        """Yield the scanned connections that `connections` do not prove; the file of a Unix socket proves its own."""
        by_address = {connection.peer.address: connection for connection in connections}
        for accepted in self._known.values():
            if accepted is None or accepted.host == UNIX:
                continue
            connection = by_address.get(f"{accepted.host}:{accepted.port}")
            if connection is None:
                yield Unproven(accepted.inode, accepted.host, accepted.seen_at)
            elif not connection.proven:
                idle_since = connection.used_at if not connection.requests else None
                yield Unproven(accepted.inode, accepted.host, accepted.seen_at, requested=True, idle_since=idle_since)

    def shut_down(self, inode: int) -> None:
        """End the connection. The server closes its socket, as after a disconnect of the client."""
        for (descriptor, known), accepted in self._known.items():
            if known == inode and accepted is not None:
                with _duplicate(descriptor) as duplicate:
                    # The server may have closed the descriptor since, and something else may have it now.
                    if duplicate is not None and os.fstat(duplicate.fileno()).st_ino == inode:
                        with suppress(OSError):  # the peer was faster
                            duplicate.shutdown(socket.SHUT_RDWR)

    def _identify(self, descriptor: int, inode: int, now: float) -> _Accepted | None:
        if inode == self._own_inode:
            return None
        with _duplicate(descriptor) as duplicate:
            if duplicate is None or duplicate.family not in {socket.AF_INET, socket.AF_INET6, socket.AF_UNIX}:
                return None
            try:
                if _local_part(duplicate) != self._local:
                    return None
                host, port = (UNIX, 0) if duplicate.family == socket.AF_UNIX else duplicate.getpeername()[:2]
            except OSError:
                return None
        return _Accepted(inode, host, port, now)


@contextmanager
def _duplicate(descriptor: int) -> Iterator[socket.socket | None]:
    """Yield a socket of its own on a descriptor of the process, None if the descriptor is gone."""
    try:
        duplicate = socket.socket(fileno=os.dup(descriptor))
    except OSError:
        yield None
        return
    with duplicate:
        yield duplicate


def _sockets() -> Iterator[tuple[int, int]]:
    """Yield descriptor and inode of every socket of this process."""
    for name in os.listdir(_DESCRIPTORS):  # noqa: PTH208 - thousands of names, of which no paths are needed
        try:
            status = os.fstat(int(name))
        except OSError:  # closed since, as the descriptor of the listing itself
            continue
        if stat.S_ISSOCK(status.st_mode):
            yield int(name), status.st_ino


def _local_part(bound: socket.socket) -> int | str:
    """Return what a listener and the connections that it accepts have in common: the port, or the path."""
    name = bound.getsockname()
    common: int | str = name if bound.family == socket.AF_UNIX else name[1]
    return common
