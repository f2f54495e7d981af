"""The secret that the replicas on one database share, in the data directory."""

import asyncio
import secrets
from pathlib import Path

from app.core.errors import ConflictError, NotFoundError, PreconditionError, UnavailableError
from app.core.private_files import create_private_file, ensure_private_directory, read_private_file

SECRET_BYTES = 32


class ReplicaSecret:
    """A secret of 32 random bytes in a file of mode 0600.

    One that is made here is at first in PATH.new; `settle` gives the file its name, once rows are adopted.
    """

    def __init__(self, path: Path, *, required: bool) -> None:
        """Take the path. Unless the file is `required` to be there, it is made if it is missing."""
        self._path, self._required = path, required
        self._pending = path.with_name(path.name + ".new")
        self._value: bytes | None = None

    def value(self) -> bytes:
        """Return the secret. Raises UnavailableError before it was opened."""
        if self._value is None:
            raise UnavailableError("the CA has not started")
        return self._value

    async def open(self) -> bool:
        """Read the secret, or make it, and return whether it is settled.

        Raises PreconditionError if it is missing and required, is not safe to use or cannot be made.
        """
        return await asyncio.to_thread(self._open)

    async def successor(self) -> bytes:
        """Return the secret that replaces this one when it is settled; until then it is in PATH.new.

        Raises PreconditionError if it cannot be made.
        """
        self._value = await asyncio.to_thread(lambda: _read(self._pending) or _made(self._pending))
        return self._value

    async def settle(self) -> None:
        """Keep a secret that was made here for good, in the place of any other.

        Raises PreconditionError if that cannot be done.
        """
        await asyncio.to_thread(self._settle)

    def _open(self) -> bool:
        settled = _read(self._path)
        if settled is None and self._required:
            raise PreconditionError(f"there is no file {self._path}: copy the one of another replica or of a backup")
        self._value = settled or _read(self._pending) or _made(self._pending)
        return settled is not None

    def _settle(self) -> None:
        try:
            self._pending.rename(self._path)
        except FileNotFoundError as error:
            # Another process with this data directory was first.
            if _read(self._path) != self._value:
                raise PreconditionError(f"{self._path} was changed by another process: start again") from error
        except OSError as error:
            raise PreconditionError(f"cannot write {self._path}: {error.strerror}") from error


def _read(path: Path) -> bytes | None:
    try:
        secret = read_private_file(path)
    except NotFoundError:
        return None
    if len(secret) != SECRET_BYTES:
        raise PreconditionError(f"{path} does not have {SECRET_BYTES} bytes: copy it from another replica or a backup")
    return secret


def _made(path: Path) -> bytes:
    ensure_private_directory(path.parent)
    secret = secrets.token_bytes(SECRET_BYTES)
    try:
        create_private_file(path, secret)
    except ConflictError as error:
        # Another process with this data directory was first.
        other = _read(path)
        if other is None:
            raise PreconditionError(f"{path} was removed by another process: start again") from error
        return other
    return secret
