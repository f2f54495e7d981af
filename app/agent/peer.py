"""Which user opened a connection over a Unix socket."""

import asyncio
import socket
import struct

from app.core.errors import PreconditionError

# struct ucred of unix(7): pid, uid, gid.
_UCRED = struct.Struct("iII")


def check_platform() -> None:
    """Raise PreconditionError on a system that does not report who is connected to a Unix socket."""
    if not hasattr(socket, "SO_PEERCRED"):
        raise PreconditionError("the agent needs Linux: this system does not report which user is at a Unix socket")


def peer_uid(transport: asyncio.BaseTransport) -> int:
    """Return the user that opened a connection over a Unix socket, as the kernel recorded it (SO_PEERCRED)."""
    peer = transport.get_extra_info("socket")
    _, uid, _ = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(uid)
