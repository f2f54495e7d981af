"""The counters of one limit whose algorithm lets each of them end by itself, in two generations."""

from collections.abc import Hashable
from struct import pack, unpack

from app.quota.model import Hit
from app.quota.rules.counting import MILLISECONDS, State, Step, count

# Bytes of a digest that a counter is kept under: among 2^20 of them two are the same with a probability of 2^-89.
KEY_BYTES = 16


class Generations:
    """States that are dropped once they are worth no more than that of a new counter.

    A state that is written belongs to the younger generation. When that has been filled for as long as a state lives,
    it becomes the older one, whose states have then not been written for as long, and those of the older one are
    dropped, all at once. A state is kept packed. `slots` is how many counters keys without room share, 0 if none does.
    """

    def __init__(self, lifetime: int | None, now: int) -> None:
        """`lifetime` is in milliseconds, None if states never end; `now` is in Unix seconds."""
        self._seconds = None if lifetime is None else -(-lifetime // MILLISECONDS)
        self._younger: dict[Hashable, bytes] = {}
        self._older: dict[Hashable, bytes] = {}
        self.ends = None if self._seconds is None else now + self._seconds
        self.slots = 0

    @property
    def held(self) -> int:
        """How many states are kept."""
        return len(self._younger) + len(self._older)

    def turn(self, now: int) -> int:
        """Drop the older generation at `now` (Unix seconds) and return how many states that were."""
        dropped = len(self._older)
        self._older, self._younger = self._younger, {}
        self.ends = now + (self._seconds or 0)
        return dropped

    def clear(self) -> int:
        """Drop everything and return how many states that were."""
        dropped = self.held
        self._older, self._younger = {}, {}
        return dropped

    def count(self, hit: Hit, digest: bytes, now: int, *, has_room: bool) -> tuple[Step, bool]:
        """Count `hit` at `now` (Unix milliseconds); return the step, and whether its counter is that of its key alone.

        Without room a new key counts in the slot that its digest selects, where other keys may count too. One that
        finds room later starts at what its slot has.
        """
        key: Hashable = digest[:KEY_BYTES]
        packed = self._younger.get(key) or self._older.get(key)
        exact = True
        if packed is None and self.slots:
            slot = int.from_bytes(digest[KEY_BYTES:]) % self.slots
            packed = self._younger.get(slot) or self._older.get(slot)
            if not has_room:
                key, exact = slot, False
        state: State | None = None if packed is None else unpack(f"{len(packed) // 8}q", packed)
        step = count(hit.algorithm, state, now, hit.hits)
        if hit.hits and step.allowed:
            self._older.pop(key, None)
            if step.state:
                self._younger[key] = pack(f"{len(step.state)}q", *step.state)
            else:
                self._younger.pop(key, None)
        return step, exact
