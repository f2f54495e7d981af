"""What quota's service needs from outside, as Protocols."""

from collections.abc import Awaitable, Collection, Sequence
from typing import Protocol

from app.quota.model import Hit, LimitId, Outcome


class CounterStore(Protocol):
    """Where hits are counted: it keeps the state of each counter, in its own time, and runs the limit's algorithm.

    Its time never goes back: no window, once it ended, starts again. An awaitable of outcomes takes no longer than
    `answer_seconds`.
    """

    @property
    def answer_seconds(self) -> float:
        """The longest that outcomes take; 0 where none has to be awaited."""
        ...

    def add(self, hits: Sequence[Hit]) -> list[Outcome] | Awaitable[list[Outcome]]:
        """Count all `hits` in one step and return the outcome of each, in their order.

        The outcomes themselves where they are known at once, else an awaitable of them. Hits for the same counter are
        counted one after another, whether they are allowed or not. 0 hits read the counter, and take up no room. Where
        there is no room for a counter of its own, a key is counted together with others: its count is at least that of
        its hits, for as long as the window lasts, so that nothing is granted that an exact count would refuse.
        What cannot be counted in time is answered by the limit's own `away`.
        """
        ...

    async def run(self) -> None:
        """Keep what the store needs, such as connections, until cancelled."""
        ...

    def retain(self, limits: Collection[LimitId]) -> None:
        """Free the counters of every limit that is not one of `limits`, because it was deleted."""
        ...
