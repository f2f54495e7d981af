"""Files that others write: read without waiting for a writer, and no more of them than there is room for."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from app.core.errors import InvalidInputError


def read_regular(path: Path, most: int) -> bytes:
    """Return the content of a file, no more than the first `most` bytes.

    Raises InvalidInputError if it is not a regular file, OSError if it cannot be read.
    """
    with open(path, "rb", buffering=0, opener=_open_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise InvalidInputError(f"{path} is not a file")
        return file.read(most)


def bounded(found: Iterable[tuple[str, bytes]], max_files: int, max_bytes: int, problem: str) -> dict[str, bytes]:
    """Return the contents found, by their names. Raises InvalidInputError with `problem` once it is too much."""
    files: dict[str, bytes] = {}
    size = 0
    for name, content in found:
        files[name] = content
        size += len(content)
        if len(files) > max_files or size > max_bytes:
            raise InvalidInputError(problem)
    return files


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe would wait for a writer
