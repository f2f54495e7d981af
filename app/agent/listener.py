"""The Unix socket that the agent serves on: taken without a gap, refused if somebody lives there, removed after."""

import os
import secrets
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from app.core.errors import InvalidInputError, PreconditionError
from app.core.private_files import discard

# What the kernel has room for in a socket address, less the final zero (unix(7), sun_path).
MAX_PATH_BYTES = 107
# How long a socket that somebody may be listening on has to take a connection.
PROBE_SECONDS = 1.0
# Connections that wait to be accepted: a node's sidecars starting together.
BACKLOG = 128

OWNER_ONLY = 0o600
EVERYBODY = 0o666


def check_free(path: Path) -> None:
    """Check that a socket can be put at `path`: nothing is there, or the socket of a process that is gone.

    Raises PreconditionError if somebody serves there or something else is in the place, InvalidInputError if the path
    is too long for a socket.
    """
    if len(os.fsencode(_beside(path))) > MAX_PATH_BYTES or len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise InvalidInputError(f"the socket path {path} is longer than {MAX_PATH_BYTES} bytes: choose a shorter one")
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise PreconditionError(f"cannot use the socket path {path}: {error.strerror}") from error
    if not stat.S_ISSOCK(mode):
        raise PreconditionError(f"{path} is there and is no socket: move it away, or choose another --socket")
    if _answers(path):
        raise PreconditionError(f"another agent serves {path}: stop it, or choose another --socket")


@contextmanager
def listening(path: Path, mode: int) -> Iterator[socket.socket]:
    """Listen at `path` with file permissions `mode` for the length of the block, and remove the socket after it.

    Raises as `check_free` does, and PreconditionError if the socket cannot be made.
    """
    check_free(path)
    temporary = _beside(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            listener.bind(os.fspath(temporary))
            temporary.chmod(mode)
            listener.listen(BACKLOG)
            # Whoever connects sees the old socket or this one, already listening and with its final permissions.
            temporary.replace(path)
        except OSError as error:
            discard(temporary)
            raise PreconditionError(f"cannot make the socket {path}: {error.strerror}") from error
        ours = path.lstat().st_ino
        try:
            yield listener
        finally:
            _remove(path, ours)


def _beside(path: Path) -> Path:
    return path.with_name(f".{secrets.token_hex(4)}")


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # a full backlog or a socket that we may not open: somebody is behind it
            return True
    return True


def _remove(path: Path, ours: int) -> None:
    """Remove the socket if it is still this one: somebody may have put another in its place."""
    with suppress(OSError):  # on the way out; the next agent replaces a socket that nobody answers on
        if path.lstat().st_ino == ours:
            path.unlink()
