"""Rego policies on disk: a file, a directory or a bundle (OPA's documentation, "Bundles": the file format)."""

import gzip
import json
import os
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

from app.core.bounded_files import bounded, read_regular
from app.core.errors import InvalidInputError, UnavailableError
from app.documents.parser import parse_documents

# What policies and data may take together, unpacked: OPA's own limit on one file of a bundle is 1 GiB, and bundles that
# are distributed have some hundred kilobytes.
MAX_BYTES = 16 << 20
MAX_FILES = 1000
MAX_DEPTH = 32

_MANIFEST = ".manifest"
_DATA = frozenset({"data.json", "data.yaml", "data.yml"})
_REGO = ".rego"
_TEST = "_test.rego"
_BUNDLES = (".tar.gz", ".tgz")


@dataclass(frozen=True, slots=True)
class Policies:
    """Modules as name and text, base data, and whether they are written in Rego v0; `revision` is the bundle's."""

    modules: tuple[tuple[str, str], ...]
    data: dict[str, Any]
    v0: bool = False
    revision: str = ""


def read_files(path: Path) -> dict[str, bytes]:
    """Return the files of policies and data below `path`, by their names there; of a bundle, those in it.

    Raises UnavailableError if they cannot be read, InvalidInputError if they are too large or not a bundle.
    """
    problem = f"{path} has more than {MAX_FILES} files or {MAX_BYTES} bytes of policies"
    try:
        return bounded(_found(path), MAX_FILES, MAX_BYTES, problem)
    except OSError as error:
        raise UnavailableError(f"cannot read {error.filename or path}: {error.strerror or error}") from error


def _found(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        return _walk(path)
    if path.name.endswith(_BUNDLES):
        return _unpack(path)
    return iter([(path.name, read_regular(path, MAX_BYTES + 1))])


def read_policies(path: Path, files: dict[str, bytes]) -> Policies:
    """Return the policies in the files of `path`. Raises InvalidInputError that names the file that is not valid."""
    modules: list[tuple[str, str]] = []
    data: dict[str, Any] = {}
    manifest: dict[str, Any] = {}
    for name, content in sorted(files.items()):
        try:
            if name.endswith(_REGO):
                modules.append((name, content.decode()))
            elif name == _MANIFEST:
                manifest = _mapping(json.loads(content))
            else:
                _merge(data, PurePosixPath(name).parent.parts, _data(name, content))
        except (ValueError, RecursionError, InvalidInputError) as error:
            problem = error.message if isinstance(error, InvalidInputError) else str(error)
            raise InvalidInputError(f"{name} of {path} is not valid: {problem}") from error
    if not modules:
        raise InvalidInputError(f"{path} has no .rego file")
    return Policies(tuple(modules), data, manifest.get("rego_version") == 0, str(manifest.get("revision", "")))


def _is_wanted(name: str) -> bool:
    path = PurePosixPath(name)
    wanted = path.suffix == _REGO and not name.endswith(_TEST)
    return wanted or path.name in _DATA or name == _MANIFEST


def _walk(root: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a directory. Directories whose names begin with a dot are those of a ConfigMap's mount."""
    for directory, names, files in os.walk(root, onerror=_fail):
        names[:] = sorted(name for name in names if not name.startswith("."))
        place = Path(directory).relative_to(root)
        if len(place.parts) > MAX_DEPTH:
            raise InvalidInputError(f"{root} has directories more than {MAX_DEPTH} deep")
        for name in sorted(files):
            at = (place / name).as_posix()
            if _is_wanted(at):
                yield at, read_regular(Path(directory) / name, MAX_BYTES + 1)


def _fail(error: OSError) -> None:
    raise error


def _unpack(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with gzip.open(path) as packed:
            unpacked = packed.read(MAX_BYTES + 1)
        if len(unpacked) > MAX_BYTES:
            raise InvalidInputError(f"{path} is longer than {MAX_BYTES} bytes unpacked")
        with tarfile.open(fileobj=BytesIO(unpacked), mode="r:") as archive:
            for member in archive:
                name = member.name.removeprefix("./").lstrip("/")
                if member.isreg() and _is_wanted(name) and (file := archive.extractfile(member)):
                    yield name, file.read()
    except (gzip.BadGzipFile, zlib.error, EOFError, tarfile.TarError) as error:
        raise InvalidInputError(f"{path} is not a bundle: {error}") from error


def _data(name: str, content: bytes) -> dict[str, Any]:
    if name.endswith(".json"):
        return _mapping(json.loads(content))
    (found,) = parse_documents(content)
    return dict(found)


def _mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("it is not an object")  # noqa: TRY004 - it is the file's content that is wrong
    return value


def _merge(data: dict[str, Any], place: tuple[str, ...], found: dict[str, Any]) -> None:
    """Put what was found in the directory `place` there. Raises ValueError if another file has the same key."""
    for part in place:
        inner = data.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ValueError(f"another file has a value at {part!r} already")  # noqa: TRY004 - as above
        data = inner
    for key, value in found.items():
        before = data.setdefault(key, value)
        if before is not value:
            if not isinstance(before, dict) or not isinstance(value, dict):
                raise ValueError(f"another file has {key!r} already")
            _merge(before, (), value)
