"""What quota's service needs from outside, as Protocols."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from app.quota.model import Hit, StoredConfig


class CounterStore(Protocol):
    """Where hits are counted.

    A window is told by its length and its start. For one key and length, a window that starts before one already
    counted is closed: its hits are counted in the later one, so that no count comes back and none starts anew.
    """

    async def add(self, hits: Sequence[Hit]) -> Sequence[int | None]:
        """Count all `hits` in one step and return, for each, the count in its window with its own hits included.

        Hits for the same key are counted one after another. 0 hits read the count, and take up no room. The count may
        be held at any number above the largest limit. None stands for a key that there was no room to count. Raises
        UnavailableError if the counters cannot be reached.
        """
        ...


class ConfigRepository(Protocol):
    """The stored configurations, within one transaction."""

    async def next_revision(self) -> int:
        """Return the number of the change that this transaction makes; no other writer goes on until it ends."""
        ...

    async def revision(self) -> int:
        """Return the number of the last change, 0 if there was none."""
        ...

    async def get(self, domain: str) -> StoredConfig | None:
        """Return the configuration of `domain`."""
        ...

    async def put(self, config: StoredConfig) -> None:
        """Keep `config` in place of what its domain had."""
        ...

    async def delete(self, domain: str) -> None:
        """Remove the configuration of `domain`."""
        ...

    async def all(self) -> list[StoredConfig]:
        """Return every configuration."""
        ...

    async def page(self, after: str | None, limit: int) -> list[StoredConfig]:
        """Return up to `limit` configurations in order of domain, those after the domain `after`."""
        ...


ConfigTransactions = Callable[[], AbstractAsyncContextManager[ConfigRepository]]
