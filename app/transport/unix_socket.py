"""Listening on a Unix socket: replaced without a gap, never taken from another process, removed after."""

import errno
import os
import secrets
import socket
import stat
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from app.core.errors import InvalidInputError, PreconditionError
from app.core.net import MAX_SOCKET_PATH_BYTES
from app.core.private_files import check_socket_directory, discard

# How long a socket on which another process may be listening has to accept a connection.
PROBE_SECONDS = 1.0
# Connections that wait to be accepted: a node's sidecars starting together.
BACKLOG = 128

OWNER_ONLY = 0o600
ANY_USER = 0o666

# A POSIX access control list as Linux stores it (linux/posix_acl_xattr.h): a version, then entries of tag, permissions
# and user id.
_ACL_ATTRIBUTE = "system.posix_acl_access"
_ACL_VERSION = 2
_ACL_OWNER, _ACL_USER, _ACL_GROUP, _ACL_MASK, _ACL_OTHERS = 0x01, 0x02, 0x04, 0x10, 0x20
_ACL_READ_WRITE, _ACL_NOTHING = 6, 0
_ACL_NO_ID = 0xFFFF_FFFF


def check_free(path: Path) -> None:
    """Check that a socket can be put at `path`: nothing is there, or the socket of a process that is gone.

    Raises PreconditionError if another process is listening there, the path is not a socket or belongs to another user,
    or another user could replace the socket; InvalidInputError if the path is too long for a socket.
    """
    if len(os.fsencode(_temporary(path))) > MAX_SOCKET_PATH_BYTES or len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise InvalidInputError(
            f"the socket path {path} is longer than {MAX_SOCKET_PATH_BYTES} bytes: choose a shorter one"
        )
    try:
        check_socket_directory(path.parent)
        status = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise PreconditionError(f"cannot use the socket path {path}: {error.strerror}") from error
    if not stat.S_ISSOCK(status.st_mode):
        raise PreconditionError(f"{path} exists and is not a socket: move it away, or choose another path")
    if status.st_uid != os.geteuid():
        raise PreconditionError(f"{path} belongs to user {status.st_uid}: remove it, or choose another path")
    if _is_listening(path):
        raise PreconditionError(f"another process is listening on {path}: stop it, or choose another path")


@contextmanager
def listening(path: Path, mode: int, uids: Collection[int] = ()) -> Iterator[socket.socket]:
    """Listen at `path` for the length of the block, and remove the socket after it.

    Those whom the file permissions `mode` let may connect; if there are `uids`, its owner, root and these users alone.
    Raises as `check_free` does, and PreconditionError if the socket cannot be made.
    """
    check_free(path)
    temporary = _temporary(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            listener.bind(os.fspath(temporary))
            temporary.chmod(OWNER_ONLY if uids else mode)
            if uids:
                _allow(temporary, uids)
            listener.listen(BACKLOG)
            listener.setblocking(False)
            # A client that connects sees the old socket or this one, already listening and with its final permissions.
            temporary.replace(path)
        except OSError as error:
            discard(temporary)
            raise PreconditionError(f"cannot make the socket {path}: {error.strerror}") from error
        except PreconditionError:
            discard(temporary)
            raise
        ours = path.lstat().st_ino
        try:
            yield listener
        finally:
            _remove(path, ours)


def _allow(path: Path, uids: Collection[int]) -> None:
    entries = (
        (_ACL_OWNER, _ACL_READ_WRITE, _ACL_NO_ID),
        *((_ACL_USER, _ACL_READ_WRITE, uid) for uid in sorted(set(uids))),
        (_ACL_GROUP, _ACL_NOTHING, _ACL_NO_ID),
        (_ACL_MASK, _ACL_READ_WRITE, _ACL_NO_ID),
        (_ACL_OTHERS, _ACL_NOTHING, _ACL_NO_ID),
    )
    packed = b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(path, _ACL_ATTRIBUTE, struct.pack("<I", _ACL_VERSION) + packed, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        raise PreconditionError(
            f"a socket in {path.parent} cannot be limited to users, because its file system has no access control "
            "lists: choose a path on another one, or limit the socket to a group by its mode"
        ) from error


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
