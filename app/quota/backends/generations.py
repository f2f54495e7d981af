"""The counters of one limit whose algorithm lets each of them end by itself, in two generations."""

from struct import pack, unpack

from app.quota.backends.listing import Kept
from app.quota.model import Hit
from app.quota.rules.counting import MILLISECONDS, State, Step, count


class Generations:
    """States that are dropped once they are worth no more than that of a new counter.

    A state that is written belongs to the younger generation. When that has been filled for as long as a state lives,
    it becomes the older one, whose states have then not been written for as long, and those of the older one are
    dropped, all at once. A state is kept packed. `slots` is how many counters keys without room share, 0 if none does.
    """

    def __init__(self, lifetime: int | None, now: int) -> None:
        """`lifetime` is in milliseconds, None if states never end; `now` is in Unix seconds."""
        self._seconds = None if lifetime is None else -(-lifetime // MILLISECONDS)
        self._younger: dict[Kept | int, bytes] = {}
        self._older: dict[Kept | int, bytes] = {}
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

    def let_go(self) -> list[dict[Kept | int, bytes]]:
        """Return the dictionaries that have the states, and start without any."""
        states = [self._older, self._younger]
        self._older, self._younger = {}, {}
        return states

    def keys(self) -> list[Kept]:
        """Return the keys of the counters, without the slots that keys share."""
        return [key for states in (self._older, self._younger) for key in states if not isinstance(key, int)]

    def state(self, key: Kept | int) -> State | None:
        """Return the state of the counter with `key`, None if it has none."""
        packed = self._younger.get(key) or self._older.get(key)
        return None if packed is None else unpack(f"{len(packed) // 8}q", packed)

    def drop(self, key: Kept) -> int:
        """Drop the state of the counter with `key` and return how many states that were."""
        return int(self._younger.pop(key, None) is not None or self._older.pop(key, None) is not None)

    def count(self, hit: Hit, key: Kept, now: int, *, slot: int | None, has_room: bool) -> tuple[Step, bool]:
        """Count `hit` at `now` (Unix milliseconds); return the step, and whether its counter is that of its key alone.

        Without room a new key counts in its `slot`, where other keys may count too; None if keys share none. One that
        finds room later starts at what its slot has.
        """
        place: Kept | int = key
        exact = True
        state = self.state(key)
        if state is None and slot is not None:
            state = self.state(slot)
            if not has_room:
                place, exact = slot, False
        step = count(hit.algorithm, state, now, hit.hits)
        if hit.hits and step.allowed:
            self._older.pop(place, None)
            if step.state:
                self._younger[place] = pack(f"{len(step.state)}q", *step.state)
            else:
                self._younger.pop(place, None)
        return step, exact
