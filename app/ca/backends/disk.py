"""Keys and the trust bundle in the data directory."""

import asyncio
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from app.ca.model import KeyAlgorithm
from app.ca.rules.profile import authority_id, new_authority_key
from app.core.errors import InvalidInputError, NotFoundError, PreconditionError
from app.core.private_files import create_private_file, ensure_private_directory, read_private_file, replace_file
from app.spiffe.bundle import TrustBundle, bundle_pem

# Whoever verifies us may read the bundle.
BUNDLE_MODE = 0o644


class DiskKeyStore:
    """A KeyStore: `ID.pem` (PKCS#8, mode 0600) for each authority, in a directory of mode 0700."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def create(self, algorithm: KeyAlgorithm) -> EllipticCurvePrivateKey:
        """Make and keep a new key; it is durable when this returns. Raises PreconditionError if it cannot be kept."""
        return await asyncio.to_thread(self._create, algorithm)

    async def load(self, authority: str) -> EllipticCurvePrivateKey | None:
        """Return the key of an authority, None if it is not kept here.

        Raises PreconditionError if the file or its directory is open to others, is a symbolic link, is not ours, or
        does not hold the key that it is named after.
        """
        return await asyncio.to_thread(self._load, authority)

    async def remove(self, authority: str) -> None:
        """Forget a key that was never put to use. Does nothing if it is not kept here."""
        path = self._path(authority)
        try:
            await asyncio.to_thread(path.unlink, missing_ok=True)
        except OSError as error:
            raise PreconditionError(f"cannot remove {path}: {error.strerror}") from error

    def _path(self, authority: str) -> Path:
        return self._directory / f"{authority}.pem"

    def _create(self, algorithm: KeyAlgorithm) -> EllipticCurvePrivateKey:
        ensure_private_directory(self._directory)
        key = new_authority_key(algorithm)
        content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        create_private_file(self._path(authority_id(key.public_key())), content)
        return key

    def _load(self, authority: str) -> EllipticCurvePrivateKey | None:
        ensure_private_directory(self._directory)
        path = self._path(authority)
        try:
            key = load_pem_private_key(read_private_file(path), password=None)
        except NotFoundError:
            return None
        except (ValueError, TypeError, UnsupportedAlgorithm, InvalidInputError) as error:
            raise PreconditionError(f"{path} does not hold a private key in PKCS#8 PEM: restore it") from error
        if not isinstance(key, EllipticCurvePrivateKey) or authority_id(key.public_key()) != authority:
            raise PreconditionError(f"{path} does not hold the key of the authority {authority}: restore it")
        return key


class BundleFile:
    """A BundlePublisher: the roots in one PEM file, replaced in one step."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def publish(self, bundle: TrustBundle) -> None:
        """Put the bundle in the place of the one before. Raises PreconditionError if it cannot be written."""
        await asyncio.to_thread(replace_file, self._path, bundle_pem(bundle).encode("ascii"), BUNDLE_MODE)
