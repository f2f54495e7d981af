"""The passphrase of keys on disk: read from its file, and changed."""

from pathlib import Path

from app.ca.backends import local_key
from app.core.errors import InvalidInputError, NotFoundError, PreconditionError
from app.core.private_files import ensure_private_directory, read_private_file, replace_private_file

# A passphrase of a few words, or 32 random bytes in hexadecimal.
MIN_PASSPHRASE_BYTES = 12
MAX_PASSPHRASE_BYTES = 1024


def read_passphrase(path: Path) -> bytes:
    """Return the passphrase in a file of mode 0600, without the end of its line.

    Raises PreconditionError if it cannot be read or others can, InvalidInputError if it is too short or too long.
    """
    try:
        passphrase = read_private_file(path, MAX_PASSPHRASE_BYTES + 2).rstrip(b"\r\n")
    except NotFoundError as error:
        raise PreconditionError(f"{error.message}: the passphrase of the keys is to be there") from error
    if not MIN_PASSPHRASE_BYTES <= len(passphrase) <= MAX_PASSPHRASE_BYTES:
        bounds = f"{MIN_PASSPHRASE_BYTES} to {MAX_PASSPHRASE_BYTES}"
        raise InvalidInputError(f"the passphrase in {path} needs {bounds} bytes")
    return passphrase


def change_passphrase(directory: Path, old: bytes | None, new: bytes | None) -> tuple[int, int]:
    """Encrypt every key in the directory under `new`, None for not at all, instead of `old`.

    Each file is replaced in one step, and one that is under `new` already is left, so that it can be run again. Nothing
    is changed unless every key can be read. Returns how many were changed, and how many are there. Raises
    PreconditionError that names the file which cannot be read.
    """
    ensure_private_directory(directory)
    paths = sorted(directory.glob("*.pem"))
    changed: dict[Path, bytes] = {}
    for path in paths:
        content = read_private_file(path)
        if not _opens(content, new):
            try:
                changed[path] = local_key.as_pem(local_key.parse(content, old), new)
            except InvalidInputError as error:
                raise PreconditionError(f"cannot read the key in {path}: {error.message}") from error
    for path, content in changed.items():
        replace_private_file(path, content)
    return len(changed), len(paths)


def _opens(content: bytes, passphrase: bytes | None) -> bool:
    try:
        local_key.parse(content, passphrase)
    except InvalidInputError:
        return False
    return True
