"""Questions that a server answers: each asked once for all who want to know it, and remembered for a time."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

# Answers that are remembered, good ones and refusals each: a flood of these drives out none of those.
MAX_KEPT = 10_000

Key = TypeVar("Key", bound=Hashable)
Answer = TypeVar("Answer")


class Inquiries(Generic[Key, Answer]):
    """The answers to questions of one kind, by their keys. `is_good` tells the good ones from refusals."""

    def __init__(self, monotonic: Callable[[], float], is_good: Callable[[Answer], bool]) -> None:
        self._monotonic, self._is_good = monotonic, is_good
        self._good, self._refusals = _Kept[Key, Answer](), _Kept[Key, Answer]()
        self._asking: dict[Key, asyncio.Task[Answer]] = {}

    def known(self, key: Key) -> Answer | None:
        """Return the answer that is remembered, None if there is none."""
        now = self._monotonic()
        return self._good.get(key, now) or self._refusals.get(key, now)

    async def answer(self, key: Key, ask: Callable[[], Awaitable[tuple[Answer, float]]]) -> Answer:
        """Return what `ask` answers, which also says for how many seconds that is remembered; it does not raise.

        All who want to know the same meanwhile wait for one question. One who gives up ends it for no other.
        """
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = asyncio.create_task(self._ask(key, ask))
            asking.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(asking)

    async def _ask(self, key: Key, ask: Callable[[], Awaitable[tuple[Answer, float]]]) -> Answer:
        answer, seconds = await ask()
        if seconds > 0:
            kept = self._good if self._is_good(answer) else self._refusals
            kept.put(key, self._monotonic() + seconds, answer)
        return answer


class _Kept(Generic[Key, Answer]):
    """Answers by their keys, each until its time; the one that was kept first goes first."""

    def __init__(self) -> None:
        self._answers: OrderedDict[Key, tuple[float, Answer]] = OrderedDict()

    def get(self, key: Key, now: float) -> Answer | None:
        found = self._answers.get(key)
        return found[1] if found is not None and found[0] > now else None

    def put(self, key: Key, until: float, answer: Answer) -> None:
        self._answers.pop(key, None)
        self._answers[key] = until, answer
        if len(self._answers) > MAX_KEPT:
            self._answers.popitem(last=False)
