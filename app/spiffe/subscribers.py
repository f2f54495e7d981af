"""Who holds which trust bundle: the streams that were sent one, and what each has accepted."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from app.core.signals import Signal
from app.spiffe.id import SpiffeId

# How long a stream that has ended is waited for: a client comes back within half a minute where its server has drained.
AWAY_SECONDS = 60.0
# Those that are away are kept up to this many, of which a mesh of any size has fewer at a time.
MAX_AWAY = 20_000


@dataclass(slots=True)
class Subscriber:
    """A stream and what its client has said. `bundle` is the version that it accepted last, None before that.

    `subscribed` is whether it asks for the bundle at all; `problem` why it refused one since, "" if it did not.
    """

    spiffe_id: SpiffeId
    address: str
    node: str = ""
    subscribed: bool = False
    bundle: str | None = None
    problem: str = ""


class Subscribers:
    """The streams of this process, and for `away_seconds` those that have ended, unless their clients come back.

    `changed` fires when a stream comes, goes, or answers differently than before.
    """

    def __init__(self, monotonic: Callable[[], float], *, away_seconds: float = AWAY_SECONDS) -> None:
        self.changed = Signal()
        self._monotonic, self._away_seconds = monotonic, away_seconds
        self._open: dict[int, Subscriber] = {}
        self._away: dict[tuple[SpiffeId, str], tuple[Subscriber, float]] = {}

    @contextmanager
    def opened(self, spiffe_id: SpiffeId, address: str) -> Iterator[Subscriber]:
        """Count a stream for the length of the block."""
        subscriber = Subscriber(spiffe_id, address)
        self._open[id(subscriber)] = subscriber
        try:
            yield subscriber
        finally:
            del self._open[id(subscriber)]
            if subscriber.subscribed:
                self._leave(subscriber)
                self.changed.fire()

    def answered(self, subscriber: Subscriber, *, subscribed: bool, bundle: str | None, problem: str) -> None:
        """Keep what the client of a stream has said."""
        before = (subscriber.subscribed, subscriber.bundle, subscriber.problem)
        subscriber.subscribed, subscriber.bundle, subscriber.problem = subscribed, bundle, problem
        if subscribed:
            self._away.pop((subscriber.spiffe_id, subscriber.node), None)
        if before != (subscribed, bundle, problem):
            self.changed.fire()

    def of_bundles(self) -> Sequence[Subscriber]:
        """Return the streams that ask for the bundle, or did until they ended."""
        now = self._monotonic()
        self._away = {key: each for key, each in self._away.items() if now < each[1] + self._away_seconds}
        asking = [each for each in self._open.values() if each.subscribed]
        return [*asking, *(subscriber for subscriber, _ in self._away.values())]

    def _leave(self, subscriber: Subscriber) -> None:
        if self._away_seconds and len(self._away) < MAX_AWAY:
            subscriber.problem = subscriber.problem or "it has disconnected"
            self._away[subscriber.spiffe_id, subscriber.node] = (subscriber, self._monotonic())
