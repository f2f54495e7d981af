"""What is remembered of keys that come again and again, and nothing of those that come once."""

from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recurring(Generic[Key, Value]):
    """Values by keys that came twice, without many others in between: to keep each one costs more than it saves.

    `get` returns the value, None if there is none. At most `size` values are kept.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: dict[Key, Value] = {}
        # By the lower digits of a hash: the hash of the last one that came.
        self._last = [0] * size
        self.get = self._values.get

    def offer(self, key: Key, value: Value) -> None:
        """Keep `value` if `key` was offered before."""
        digest = hash(key)
        place = digest % self._size
        if self._last[place] != digest:
            self._last[place] = digest
            return
        if len(self._values) >= self._size:
            self._values.clear()
        self._values[key] = value

    def clear(self) -> None:
        """Forget every value."""
        self._values.clear()
