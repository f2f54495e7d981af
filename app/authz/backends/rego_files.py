"""Rego policies in files: a file, a directory or a bundle (OPA's documentation, "Bundles": the file format)."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from app.authz.backends.bundle_archive import MAX_BYTES, MAX_DEPTH, MAX_FILES, unpack
from app.core.bounded_files import bounded, read_regular
from app.core.errors import InvalidInputError, UnavailableError
from app.documents.parser import parse_documents

_MANIFEST = ".manifest"
_DATA = frozenset({"data.json", "data.yaml", "data.yml"})
_REGO = ".rego"
_TEST = "_test.rego"
_BUNDLES = (".tar.gz", ".tgz")
# What is read of a directory, which may have what is no part of it.
_READ = frozenset({_REGO, ".json", ".yaml", ".yml"})
_HIDDEN = frozenset({_MANIFEST, ".signatures.json"})
_PACKAGE = re.compile(r"^[ \t]*package\s+(\S+)", re.MULTILINE)
_NAME = re.compile(r"(?<=\")[^\"]+(?=\")|[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Policies:
    """Modules as name and text, base data, and whether they are written in Rego v0; `revision` is the bundle's."""

    modules: tuple[tuple[str, str], ...]
    data: dict[str, Any]
    v0: bool = False
    revision: str = ""


def read_files(path: Path) -> dict[str, bytes]:
    """Return the files below `path`, by their names there; of a bundle, those in it.

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
        return iter(unpack(read_regular(path, MAX_BYTES + 1), str(path)).items())
    return iter([(path.name, read_regular(path, MAX_BYTES + 1))])


def read_policies(what: str, files: Mapping[str, bytes]) -> Policies:
    """Return the policies in files; `what` is where they are from, for messages.

    Raises InvalidInputError that names the file that is not valid, or that is outside of the manifest's roots.
    """
    modules: list[tuple[str, str]] = []
    data: dict[str, Any] = {}
    manifest: dict[str, Any] = {}
    for name, content in sorted(files.items()):
        try:
            if name.endswith(_REGO) and not name.endswith(_TEST):
                modules.append((name, content.decode()))
            elif name == _MANIFEST:
                manifest = _mapping(json.loads(content))
            elif PurePosixPath(name).name in _DATA:
                _merge(data, PurePosixPath(name).parent.parts, _data(name, content))
        except (ValueError, RecursionError, InvalidInputError) as error:
            problem = error.message if isinstance(error, InvalidInputError) else str(error)
            raise InvalidInputError(f"{name} of {what} is not valid: {problem}") from error
    if not modules:
        raise InvalidInputError(f"{what} has no .rego file")
    try:
        _check_manifest(manifest, modules, data)
    except InvalidInputError as error:
        raise InvalidInputError(f"{_MANIFEST} of {what} is not valid: {error.message}") from error
    return Policies(tuple(modules), data, manifest.get("rego_version") == 0, str(manifest.get("revision", "")))


def _check_manifest(manifest: Mapping[str, Any], modules: Iterable[tuple[str, str]], data: Mapping[str, Any]) -> None:
    """Check that policies and data are below the roots, the parts of `data` that the bundle says it is for."""
    if not isinstance(manifest.get("revision", ""), str):
        raise InvalidInputError("its revision is not a string")
    if manifest.get("rego_version", 1) not in {0, 1} or manifest.get("file_rego_versions"):
        raise InvalidInputError("its rego_version is neither 0 nor 1, or differs by file")
    roots = manifest.get("roots") or [""]
    if not isinstance(roots, list) or not all(isinstance(root, str) for root in roots):
        raise InvalidInputError("its roots are no list of strings")
    paths = [tuple(filter(None, root.split("/"))) for root in roots]
    for place, one in enumerate(paths):
        if any(one[: len(other)] == other for other in (*paths[:place], *paths[place + 1 :])):
            raise InvalidInputError("its roots are in each other")
    for name, text in modules:
        package = _PACKAGE.search(text)
        if not _is_below(tuple(_NAME.findall(package[1])) if package else (), paths):
            raise InvalidInputError(f"the package of {name} is outside of its roots")
    if not _data_is_below(data, (), paths):
        raise InvalidInputError("there is data outside of its roots")


def _is_below(path: tuple[str, ...], roots: Iterable[tuple[str, ...]]) -> bool:
    return any(path[: len(root)] == root for root in roots)


def _data_is_below(value: object, path: tuple[str, ...], roots: Iterable[tuple[str, ...]]) -> bool:
    if _is_below(path, roots):
        return True
    if not isinstance(value, dict) or not any(root[: len(path)] == path for root in roots):
        return False
    return all(_data_is_below(inner, (*path, key), roots) for key, inner in value.items())


def _walk(root: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a directory. Directories whose names begin with a dot are those of a ConfigMap's mount."""
    for directory, names, files in os.walk(root, onerror=_fail):
        names[:] = sorted(name for name in names if not name.startswith("."))
        place = Path(directory).relative_to(root)
        if len(place.parts) > MAX_DEPTH:
            raise InvalidInputError(f"{root} has directories more than {MAX_DEPTH} deep")
        for name in sorted(files):
            at = (place / name).as_posix()
            if PurePosixPath(name).suffix in _READ or name in _HIDDEN:
                yield at, read_regular(Path(directory) / name, MAX_BYTES + 1)


def _fail(error: OSError) -> None:
    raise error


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
