"""The key store that the settings name."""

from pathlib import Path

from app.ca.backends.disk import DiskKeyStore
from app.ca.backends.memory import MemoryKeyStore
from app.ca.backends.passphrase import change_passphrase, read_passphrase
from app.ca.ports import KeyStore
from app.core.errors import InvalidInputError
from app.settings import Settings

KEYS = "keys"


def make_key_store(settings: Settings) -> KeyStore:
    """Return the key store; nothing is opened yet. Raises InvalidInputError if its library is not installed."""
    keys = settings.keys
    if keys.store == "memory":
        return MemoryKeyStore()
    if keys.pkcs11_module is None or keys.pkcs11_pin_file is None:
        return DiskKeyStore(settings.data_dir / KEYS, keys.passphrase_file)
    try:
        from app.ca.backends.pkcs11_keys import TokenKeyStore, TokenPlace  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise InvalidInputError(
            f"keys.store = pkcs11 needs the extra 'pkcs11': pip install 'meshward[pkcs11]' ({error})"
        ) from error
    return TokenKeyStore(TokenPlace(keys.pkcs11_module, keys.pkcs11_token, keys.pkcs11_pin_file))


def reencrypt_keys(settings: Settings, old: Path | None, new: Path | None) -> tuple[int, int]:
    """Encrypt the keys in the data dir under the passphrase in `new`, None for not at all, instead of that in `old`.

    Returns how many were changed, and how many are there. Raises PreconditionError or InvalidInputError.
    """
    before, after = (None if path is None else read_passphrase(path) for path in (old, new))
    return change_passphrase(settings.data_dir / KEYS, before, after)
