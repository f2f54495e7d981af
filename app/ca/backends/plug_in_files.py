"""The files of a plug-in CA in a directory, such as a mounted secret that Kubernetes replaces by a symbolic link."""

import asyncio
import stat
from pathlib import Path

from app.ca.backends import local_key
from app.ca.ports import PlugInSource, SigningKey
from app.ca.rules.plug_in import CACERTS, TLS, Layout, PlugInFiles, layout_of
from app.core.bounded_files import read_regular
from app.core.errors import InvalidInputError
from app.spiffe.bundle import MAX_BUNDLE_BYTES

# An RSA key of 8192 bits is about 6.4 KB, and the check of a larger one takes long.
MAX_KEY_BYTES = 8 * 1024

_NAMES = (*TLS.files, *CACERTS.files, *(each.crls for each in (TLS, CACERTS) if each.crls is not None))


class PlugInDirectory(PlugInSource):
    """A PlugInSource over a directory. Links are followed; what others than its owner can write is refused."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def place(self) -> str:
        return str(self._directory)

    async def version(self) -> str:
        return await asyncio.to_thread(self._version)

    async def read(self) -> tuple[PlugInFiles, SigningKey]:
        return await asyncio.to_thread(self._read)

    def _version(self) -> str:
        return " ".join(f"{name}:{_status(self._directory / name)}" for name in _NAMES)

    def _read(self) -> tuple[PlugInFiles, SigningKey]:
        names = self._names()
        layout = layout_of(names)
        contents = {name: self._content(name, layout) for name in layout.files}
        try:
            key = local_key.parse(contents[layout.key])
        except InvalidInputError as error:
            remedy = "put the private key there, in PEM and not encrypted"
            raise InvalidInputError(f"{layout.key}: {error.message}: {remedy}") from error
        chain = b"" if layout.chain is None else contents[layout.chain]
        crls = self._content(layout.crls, layout) if layout.crls in names and layout.crls is not None else None
        certificates, roots = contents[layout.certificate], contents[layout.roots]
        return PlugInFiles(layout, certificates, chain, roots, crls, key.public_key), key

    def _names(self) -> frozenset[str]:
        try:
            return frozenset(each.name for each in self._directory.iterdir())
        except OSError as error:
            raise InvalidInputError(f"the directory cannot be read: {error.strerror}: mount it") from error

    def _content(self, name: str, layout: Layout) -> bytes:
        path, most = self._directory / name, MAX_KEY_BYTES if name == layout.key else MAX_BUNDLE_BYTES
        try:
            mode, content = path.stat().st_mode, read_regular(path, most + 1)
        except InvalidInputError as error:
            raise InvalidInputError(f"{name}: {error.message}") from error
        except OSError as error:
            raise InvalidInputError(f"{name}: it cannot be read: {error.strerror}: give it to this user") from error
        if mode & stat.S_IWOTH:
            raise InvalidInputError(f"{name}: every user can write it: run chmod o-w {path}")
        if len(content) > most:
            raise InvalidInputError(f"{name}: it is longer than {most} bytes: it is not what belongs there")
        return content


def _status(path: Path) -> str:
    try:
        status = path.stat()
    except OSError as error:
        return f"{error.errno}"
    return f"{status.st_dev}.{status.st_ino}.{status.st_size}.{status.st_mtime_ns}.{status.st_mode}"
