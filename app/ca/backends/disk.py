"""Keys and the trust bundle in the data directory."""

import asyncio
import re
from pathlib import Path

from app.ca.backends import local_key
from app.ca.backends.local_key import LocalKey
from app.ca.backends.passphrase import read_passphrase
from app.ca.model import KeyAlgorithm
from app.ca.ports import BundlePublisher, KeyStore
from app.ca.rules.profile import authority_id
from app.core.errors import InvalidInputError, NotFoundError, PreconditionError
from app.core.private_files import create_private_file, ensure_private_directory, read_private_file, replace_file
from app.spiffe.bundle import TrustBundle, bundle_pem

# Everyone who verifies our SVIDs may read the bundle.
BUNDLE_MODE = 0o644

_AUTHORITY_ID = re.compile(r"[0-9a-f]{40}")


class DiskKeyStore(KeyStore):
    """A KeyStore: `ID.pem` (PKCS#8, mode 0600) for each authority, in a directory of mode 0700.

    With the file of a passphrase every key is encrypted under what is in it, and none that is not is used. A file or
    directory is refused if it is open to others, is a symbolic link, belongs to another user, or does not have the key
    that it is named after.
    """

    def __init__(self, directory: Path, passphrase_file: Path | None = None) -> None:
        self._directory, self._passphrase_file = directory, passphrase_file

    async def create(self, algorithm: KeyAlgorithm) -> LocalKey:
        return await asyncio.to_thread(self._create, algorithm)

    async def load(self, authority: str) -> LocalKey | None:
        return await asyncio.to_thread(self._load, authority)

    async def remove(self, authority: str) -> None:
        path = self._path(authority)
        try:
            await asyncio.to_thread(path.unlink, missing_ok=True)
        except OSError as error:
            raise PreconditionError(f"cannot remove {path}: {error.strerror}") from error

    def _path(self, authority: str) -> Path:
        return self._directory / f"{authority}.pem"

    def _passphrase(self) -> bytes | None:
        return None if self._passphrase_file is None else read_passphrase(self._passphrase_file)

    def _create(self, algorithm: KeyAlgorithm) -> LocalKey:
        ensure_private_directory(self._directory)
        key, content = local_key.generate(algorithm, self._passphrase())
        create_private_file(self._path(authority_id(key.public_key)), content)
        return key

    def _load(self, authority: str) -> LocalKey | None:
        if not _AUTHORITY_ID.fullmatch(authority):  # it may be from a row that anybody wrote
            return None
        ensure_private_directory(self._directory)
        path = self._path(authority)
        try:
            content = read_private_file(path)
        except NotFoundError:
            return None
        except InvalidInputError as error:
            raise PreconditionError(f"cannot use the key in {path}: {error.message}: restore it") from error
        passphrase = self._passphrase()
        try:
            key = local_key.parse(content, passphrase)
        except InvalidInputError as error:
            remedy = "restore it"
            if passphrase is not None or local_key.is_encrypted(content):
                remedy = "see keys.passphrase_file and 'meshward keys passphrase', or restore it"
            raise PreconditionError(f"cannot use the key in {path}: {error.message}: {remedy}") from error
        if authority_id(key.public_key) != authority:
            raise PreconditionError(f"{path} does not hold the key of the authority {authority}: restore it")
        return key


class BundleFile(BundlePublisher):
    """A BundlePublisher: the roots in one PEM file, replaced in one step if they are not what it has already."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def publish(self, bundle: TrustBundle) -> None:
        await asyncio.to_thread(self._publish, bundle_pem(bundle).encode("ascii"))

    def _publish(self, content: bytes) -> None:
        try:
            # A control plane that starts on a full disk has nothing to write here.
            if self._path.read_bytes() == content:
                return
        except OSError:  # whatever is in its place is replaced
            pass
        replace_file(self._path, content, BUNDLE_MODE)
