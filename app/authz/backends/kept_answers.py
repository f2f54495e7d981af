"""Answers of providers that are kept for equal inputs."""

from collections import OrderedDict

from app.authz.providers import Answer
from app.core.clock import Clock

# Answers that are kept; one takes some hundred bytes, and its key at most MAX_KEY_BYTES.
MAX_KEPT_ANSWERS = 4096
MAX_KEY_BYTES = 2048


class KeptAnswers:
    """The answers to so many inputs, those asked for last; each for `seconds`, or with None until they are dropped."""

    def __init__(self, clock: Clock, seconds: float | None) -> None:
        self._clock, self._seconds = clock, seconds
        self._kept: OrderedDict[bytes, tuple[float, Answer]] = OrderedDict()

    def get(self, key: bytes) -> Answer | None:
        """Return the answer that is kept for the key."""
        found = self._kept.get(key)
        if found is None or (self._seconds is not None and found[0] <= self._clock.monotonic()):
            return None
        self._kept.move_to_end(key)
        return found[1]

    def keep(self, key: bytes, answer: Answer) -> None:
        """Keep the answer to the key; one that decides nothing is not kept."""
        if answer.undecided or len(key) > MAX_KEY_BYTES:
            return
        until = 0.0 if self._seconds is None else self._clock.monotonic() + self._seconds
        self._kept[key] = until, answer
        self._kept.move_to_end(key)
        if len(self._kept) > MAX_KEPT_ANSWERS:
            self._kept.popitem(last=False)
