"""What quota's service needs from outside, as Protocols."""

from collections.abc import Awaitable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Protocol

from app.quota.model import Algorithm, CounterName, CounterPage, Hit, LimitId, LiveCounter, Outcome
from app.quota.rules.joint import AllOrNone

PreparedHits = Sequence[Any]
"""Hits as a store has prepared them: what they are made of is its own."""


class CounterStore(Protocol):
    """Where hits are counted: it keeps the state of each counter, in its own time, and runs the limit's algorithm.

    Its time never goes back: no window, once it ended, starts again. An awaitable of outcomes takes no longer than
    `answer_seconds`.
    """

    @property
    def answer_seconds(self) -> float:
        """The longest that outcomes take; 0 where none has to be awaited."""
        ...

    def prepare(self, hits: Sequence[Hit]) -> "PreparedHits":
        """Return `hits` as `count` takes them: with what the store derives from them, for hits that are counted again.

        They can be counted until `retain` is called.
        """
        ...

    def add(self, hits: Sequence[Hit]) -> list[Outcome] | Awaitable[list[Outcome]]:
        """Count `hits` that are not prepared; see `count`."""
        ...

    def count(self, hits: "PreparedHits", joint: AllOrNone | None = None) -> list[Outcome] | Awaitable[list[Outcome]]:
        """Count all `hits` in one step and return the outcome of each, in their order.

        The outcomes themselves where they are known at once, else an awaitable of them. Hits for the same counter are
        counted one after another, whether they are allowed or not. 0 hits read the counter, and take up no room. Where
        there is no room for a counter of its own, a key is counted together with others: its count is at least that of
        its hits, for as long as the window lasts, so that nothing is granted that an exact count would refuse.
        What cannot be counted in time is answered by the limit's own `away`.

        With `joint` all hits are counted, or none: then what remains of each limit is what remains without them. It is
        one step but in a cluster and where a limit leases: their counters are asked first and counted then.
        """
        ...

    async def run(self) -> None:
        """Keep what the store needs, such as connections, until cancelled."""
        ...

    async def retain(self, limits: AbstractSet[LimitId]) -> None:
        """Free the counters of every limit that is not one of `limits`, because it was deleted, in bounded steps."""
        ...

    async def read(
        self, names: Sequence[CounterName], limits: Mapping[LimitId, Algorithm]
    ) -> Sequence[LiveCounter | None]:
        """Return the counters with `names`, whose algorithms are in `limits`: None of one that nothing is counted in.

        Raises UnavailableError if the store cannot be asked.
        """
        ...

    async def page(self, limits: Mapping[LimitId, Algorithm], cursor: str | None, count: int) -> CounterPage:
        """Return some `count` counters of `limits`, of those that something is counted in.

        A store may return a few more or fewer, none at all before the last page, and one twice; one that is there from
        the first page to the last is returned. The work of a page is bounded. Raises InvalidInputError for a `cursor`
        that no page had, UnavailableError if the store cannot be asked.
        """
        ...

    async def reset(self, names: Collection[CounterName]) -> None:
        """Let the counters with `names` start again at nothing. Raises UnavailableError if they do not."""
        ...

    async def reset_limits(self, limits: Collection[LimitId]) -> int:
        """Let every counter of `limits` start again at nothing, and return how many there were.

        Raises UnavailableError if some do not.
        """
        ...
