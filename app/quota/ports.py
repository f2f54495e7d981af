"""What quota's service needs from outside, as Protocols."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from app.quota.model import Hit, LimitId, Outcome, StoredConfig


class CounterStore(Protocol):
    """Where hits are counted: it keeps the state of each counter, in its own time, and runs the limit's algorithm.

    A counter is identified by the limit and the entries of the descriptor. Its time never goes back: no window, once it
    ended, starts again.
    """

    def add(self, hits: Sequence[Hit]) -> list[Outcome] | Awaitable[list[Outcome]]:
        """Count all `hits` in one step and return the outcome of each, in their order.

        The outcomes themselves where they are known at once, else an awaitable of them. Hits for the same counter are
        counted one after another, whether they are allowed or not. 0 hits read the counter, and take up no room.
        Raises UnavailableError, or the awaitable does, if the counters cannot be reached.
        """
        ...

    def retain(self, limits: Collection[LimitId]) -> None:
        """Free the counters of every limit that is not one of `limits`, because it was deleted."""
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
