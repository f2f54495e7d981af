"""The Unix socket that the agent serves on: replaced without a gap, never taken from another process, removed after."""

import os
import secrets
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from app.core.errors import InvalidInputError, PreconditionError
from app.core.private_files import check_socket_directory, discard

# What the kernel has room for in a socket address, less the final zero (unix(7), sun_path).
MAX_PATH_BYTES = 107
# How long a socket on which another process may be listening has to accept a connection.
PROBE_SECONDS = 1.0
# Connections that wait to be accepted: a node's sidecars starting together.
BACKLOG = 128

OWNER_ONLY = 0o600
ANY_USER = 0o666


def check_free(path: Path) -> None:
    """Check that a socket can be put at `path`: nothing is there, or the socket of a process that is gone.

    Raises PreconditionError if another process is listening there, the path is not a socket or belongs to another user,
    or another user could replace the socket; InvalidInputError if the path is too long for a socket.
    """
    if len(os.fsencode(_temporary(path))) > MAX_PATH_BYTES or len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise InvalidInputError(f"the socket path {path} is longer than {MAX_PATH_BYTES} bytes: choose a shorter one")
    try:
        check_socket_directory(path.parent)
        status = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise PreconditionError(f"cannot use the socket path {path}: {error.strerror}") from error
    if not stat.S_ISSOCK(status.st_mode):
        raise PreconditionError(f"{path} exists and is not a socket: move it away, or choose another --socket")
    if status.st_uid != os.geteuid():
        raise PreconditionError(f"{path} belongs to user {status.st_uid}: remove it, or choose another --socket")
    if _is_listening(path):
        raise PreconditionError(f"another agent serves {path}: stop it, or choose another --socket")


@contextmanager
def listening(path: Path, mode: int) -> Iterator[socket.socket]:
    """Listen at `path` with file permissions `mode` for the length of the block, and remove the socket after it.

    Raises as `check_free` does, and PreconditionError if the socket cannot be made.
    """
    check_free(path)
    temporary = _temporary(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            listener.bind(os.fspath(temporary))
            temporary.chmod(mode)
            listener.listen(BACKLOG)
            # A client that connects sees the old socket or this one, already listening and with its final permissions.
            temporary.replace(path)
        except OSError as error:
            discard(temporary)
            raise PreconditionError(f"cannot make the socket {path}: {error.strerror}") from error
        ours = path.lstat().st_ino
        try:
            yield listener
        finally:
            _remove(path, ours)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{secrets.token_hex(4)}")


def _is_listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # a full backlog or a socket that we may not open: a process is listening
            return True
    return True


def _remove(path: Path, ours: int) -> None:
    """Remove the socket if it is still this one: another process may have replaced it."""
    with suppress(OSError):  # the agent is ending; the next one replaces a socket that no process is listening on
        if path.lstat().st_ino == ours:
            path.unlink()
