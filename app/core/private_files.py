"""Files that hold secrets: 0600, whole or not there at all, and refused where another user could read or replace them.

They are opened without following a symbolic link and judged by the open descriptor, so that what was checked is what
is read.
"""

import errno
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from app.core.errors import (
    ConflictError,
    InvalidInputError,
    MeshwardError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
)

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
# A key, a certificate chain or a token; a file that is larger is none of them.
MAX_FILE_BYTES = 1 << 20

ROOT_UID = 0
# No room on the file system, for this user, or for a file: there may be some again.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# What SQLite keeps beside a database.
JOURNAL_SUFFIXES = ("-wal", "-shm", "-journal")

_WIDER = stat.S_IRWXG | stat.S_IRWXO
_WRITABLE = stat.S_IWGRP | stat.S_IWOTH


def ensure_private_directory(path: Path) -> None:
    """Make the directory (and its parents) with mode 0700, or check that an existing one is ours alone.

    Raises PreconditionError if it is a symbolic link, is not a directory, belongs to another user, is open to group or
    others, or cannot be made.
    """
    status = _make_directory(path, follow_symlinks=False)
    if not stat.S_ISDIR(status.st_mode):
        raise PreconditionError(f"{path} is a symbolic link: name the real directory instead")
    _check_ours(path, status)


def ensure_data_directory(path: Path) -> None:
    """Make the directory (and its parents) with mode 0700, or check that an existing one is safe to keep data in.

    An existing one may be readable by others, as the trust bundle in it is for everybody; what is secret lies in
    files and directories of its own. Raises PreconditionError if it is not a directory, another user could replace the
    files in it, or it cannot be written.
    """
    _check_writers(path, _make_directory(path))
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise PreconditionError(f"the directory {path} is not writable by this user: give it to user {os.geteuid()}")


def ensure_database_file(path: Path) -> None:
    """Make the file of a database, empty and with mode 0600, or check that no other user can write or replace it.

    An existing one that others can read gets mode 0600, and so do its journals. Raises PreconditionError if one of them
    or the directory belongs to another user or can be written by others, or the file cannot be made; OSError if the
    directory or the file is away.
    """
    path = path.resolve()
    _check_writers(path.parent, path.parent.stat(), owners=(ROOT_UID,))
    if not path.exists():
        with suppress(ConflictError):  # another process was first
            create_private_file(path, b"")
    for file in (path, *(path.with_name(path.name + suffix) for suffix in JOURNAL_SUFFIXES)):
        # Never opened here: to close it would release SQLite's locks on it (POSIX advisory locks are the process's).
        with suppress(FileNotFoundError):
            _make_private(file)


def check_socket_directory(path: Path) -> None:
    """Check that no other user can replace a socket in it (/tmp passes). Raises PreconditionError or OSError."""
    status = path.stat()
    if not status.st_mode & stat.S_ISVTX:
        _check_writers(path, status, owners=(ROOT_UID,))


def read_private_file(path: Path, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Return the file's content.

    Raises NotFoundError if there is none; PreconditionError if it is a symbolic link or no regular file, belongs to
    another user, is open to group or others, or cannot be read; InvalidInputError if it is larger than `max_bytes`.
    """
    try:
        # Without O_NONBLOCK a named pipe in the file's place would stop the process here.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {path}") from error
    except OSError as error:
        if path.is_symlink():
            raise PreconditionError(f"{path} is a symbolic link: put the file itself in its place") from error
        raise PreconditionError(f"cannot read {path}: {_reason(error)}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise PreconditionError(f"{path} is not a regular file: move it away")
        _check_ours(path, status)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise PreconditionError(f"cannot read {path}: {_reason(error)}") from error
    finally:
        os.close(descriptor)
    if len(content) > max_bytes:
        raise InvalidInputError(f"{path} is larger than {max_bytes} bytes, which what belongs there never is")
    return content


def create_private_file(path: Path, content: bytes) -> None:
    """Write a new file with mode 0600, durably, in one step.

    Raises ConflictError, UnavailableError if there is no room, or PreconditionError.
    """
    temporary = _write_beside(path, content)
    try:
        os.link(temporary, path, follow_symlinks=False)
    except FileExistsError as error:
        raise ConflictError(f"{path} exists already") from error
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        discard(temporary)
    _sync_directory(path.parent)


def replace_private_file(path: Path, content: bytes) -> None:
    """Write the file with mode 0600, durably, in one step.

    Raises UnavailableError if there is no room, or PreconditionError; the old one is then unchanged.
    """
    replace_file(path, content, FILE_MODE)


def replace_file(path: Path, content: bytes, mode: int) -> None:
    """Do as `replace_private_file` does for a file that others may read, as far as `mode` and the umask let them."""
    temporary = _write_beside(path, content, mode)
    try:
        temporary.replace(path)
    except OSError as error:
        discard(temporary)
        raise _not_written(path, error) from error
    _sync_directory(path.parent)


def discard(path: Path) -> None:
    """Remove what an attempt may have left behind; that this fails too adds nothing to why the attempt did."""
    with suppress(OSError):
        path.unlink()


def _make_directory(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
    """Make the directory if it is missing, and return its status. Raises PreconditionError."""
    try:
        path.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        return path.stat(follow_symlinks=follow_symlinks)
    except FileExistsError as error:
        raise PreconditionError(f"{path} is not a directory: move it away or choose another path") from error
    except OSError as error:
        raise PreconditionError(f"cannot make the directory {path}: {_reason(error)}") from error


def _write_beside(path: Path, content: bytes, mode: int = FILE_MODE) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        discard(temporary)
        raise _not_written(path, error) from error
    return temporary


def _sync_directory(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise PreconditionError(f"cannot make the change in {path} durable: {_reason(error)}") from error


def _make_private(file: Path) -> None:
    status = file.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise PreconditionError(f"{file} is not a regular file: move it away")
    _check_writers(file, status)
    if status.st_mode & _WIDER:
        file.chmod(FILE_MODE)


def _check_writers(path: Path, status: os.stat_result, owners: tuple[int, ...] = ()) -> None:
    """Check that this user alone can write; `owners` are others that may own it."""
    if status.st_uid not in owners:
        _check_owner(path, status)
    if status.st_mode & _WRITABLE:
        mode = stat.S_IMODE(status.st_mode)
        raise PreconditionError(f"{path} has mode {mode:04o} and other users can write it: run chmod go-w {path}")


def _check_owner(path: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise PreconditionError(
            f"{path} belongs to user {status.st_uid}, not to user {os.geteuid()} that runs this: change its owner"
        )


def _check_ours(path: Path, status: os.stat_result) -> None:
    _check_owner(path, status)
    if status.st_mode & _WIDER:
        mode = stat.S_IMODE(status.st_mode)
        wanted = "700" if stat.S_ISDIR(status.st_mode) else "600"
        raise PreconditionError(f"{path} has mode {mode:04o} and is open to other users: run chmod {wanted} {path}")


def _not_written(path: Path, error: OSError) -> MeshwardError:
    kind = UnavailableError if error.errno in _NO_ROOM else PreconditionError
    return kind(f"cannot write {path}: {_reason(error)}")


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
