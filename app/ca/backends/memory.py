"""Keys that end with the process."""

from app.ca.backends import local_key
from app.ca.backends.local_key import LocalKey
from app.ca.model import KeyAlgorithm
from app.ca.ports import KeyStore
from app.ca.rules.profile import authority_id


class MemoryKeyStore(KeyStore):
    """A KeyStore in the memory of this process: nothing of a key is ever written."""

    def __init__(self) -> None:
        self.keys: dict[str, LocalKey] = {}

    async def create(self, algorithm: KeyAlgorithm) -> LocalKey:
        key, _ = local_key.generate(algorithm)
        self.keys[authority_id(key.public_key)] = key
        return key

    async def load(self, authority: str) -> LocalKey | None:
        return self.keys.get(authority)

    async def remove(self, authority: str) -> None:
        self.keys.pop(authority, None)
