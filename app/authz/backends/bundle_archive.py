"""OPA's bundles: archives of policies and data (OPA's documentation, "Bundles": the file format)."""

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import PurePosixPath

from app.core.bounded_files import bounded
from app.core.errors import InvalidInputError

# What policies and data may take together, unpacked: OPA's own limit on one file of a bundle is 1 GiB, and bundles that
# are distributed have some hundred kilobytes.
MAX_BYTES = 16 << 20
MAX_FILES = 1000
MAX_DEPTH = 32
MAX_NAME = 512


def unpack(content: bytes, what: str) -> dict[str, bytes]:
    """Return the files in a bundle by their names, without the slash that OPA begins them with.

    Raises InvalidInputError if it is no bundle, too large, or has links, devices, a name twice or one that leads out.
    """
    problem = f"{what} has more than {MAX_FILES} files or {MAX_BYTES} bytes"
    try:
        return bounded(_files(_unzipped(content, what), what), MAX_FILES, MAX_BYTES, problem)
    except (gzip.BadGzipFile, zlib.error, EOFError, tarfile.TarError, ValueError, OverflowError) as error:
        raise InvalidInputError(f"{what} is not a bundle: {error}") from error


def _unzipped(content: bytes, what: str) -> bytes:
    with gzip.GzipFile(fileobj=BytesIO(content)) as packed:
        found = packed.read(MAX_BYTES + 1)
    if len(found) > MAX_BYTES:
        raise InvalidInputError(f"{what} is longer than {MAX_BYTES} bytes unpacked")
    return found


def _files(unzipped: bytes, what: str) -> Iterator[tuple[str, bytes]]:
    names: set[str] = set()
    with tarfile.open(fileobj=BytesIO(unzipped), mode="r:") as archive:
        for member in archive:
            if member.isdir():
                continue
            # The hole in a sparse file is no part of the archive, and may be of any size.
            if not member.isreg() or member.issparse() or member.size > len(unzipped):
                raise InvalidInputError(f"{what} has what is neither a file nor a directory: {member.name!r:.200}")
            name = _name(member.name, what)
            if name in names:
                raise InvalidInputError(f"{what} has {name!r:.200} twice")
            names.add(name)
            file = archive.extractfile(member)
            if file is not None:
                yield name, file.read()


def _name(name: str, what: str) -> str:
    parts = PurePosixPath(name.lstrip("/")).parts
    if not parts or ".." in parts or "\0" in name or len(name) > MAX_NAME or len(parts) > MAX_DEPTH:
        raise InvalidInputError(f"{what} has a file whose name is none: {name!r:.200}")
    return "/".join(parts)
