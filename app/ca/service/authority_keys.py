"""The private keys of authorities that are in the key store of this replica."""

from collections.abc import Callable

from app.ca.model import CaConfig
from app.ca.ports import Document, KeyStore, SigningKey, Unsigned
from app.ca.rules.profile import authority_id
from app.core.errors import MeshwardError
from app.spiffe.keys import SubjectKey


class AuthorityKeys:
    """Creates keys, and finds those that are here."""

    def __init__(self, config: CaConfig, store: KeyStore) -> None:
        self._config, self._store = config, store
        self._held: dict[str, SigningKey] = {}

    def holds(self, authority: str) -> bool:
        """Whether the key of an authority has been found here."""
        return authority in self._held

    async def find(self, authority: str) -> SigningKey | None:
        """Return the key of an authority, None if it is not here. Raises PreconditionError if it is not safe to use."""
        # A key that is missing now may be added later, so only a key that was found is cached.
        if authority not in self._held:
            key = await self._store.load(authority)
            if key is None:
                return None
            self._held[authority] = key
        return self._held[authority]

    def hold(self, authority: str, key: SigningKey) -> None:
        """Use a key that is kept elsewhere, for as long as this process runs."""
        self._held[authority] = key

    async def create(self, builder: Callable[[SubjectKey], Unsigned[Document]]) -> tuple[SigningKey, Document]:
        """Create a key and sign its first document; a key that cannot sign is removed again."""
        key = await self._store.create(self._config.key_algorithm)
        try:
            return key, await key.sign(builder(key.public_key))
        except MeshwardError:
            await self.remove(authority_id(key.public_key))
            raise

    async def remove(self, authority: str) -> None:
        """Remove a key that has signed nothing that anybody has."""
        self._held.pop(authority, None)
        await self._store.remove(authority)
