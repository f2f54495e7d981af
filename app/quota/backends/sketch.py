"""A count-min sketch with conservative update: counts of any number of keys in a fixed amount of memory."""

from array import array
from collections.abc import Sequence
from hashlib import blake2b
from struct import Struct

from app.quota.model import MAX_UINT32, CounterKey

# Counts are read as the least of these; keys share all of them once in width⁴ pairs.
ROWS = 4
# Bytes of a key's digest, of which each row takes its own 32 bits.
DIGEST_BYTES = 32
_PLACES = Struct("<4I16x")


def digest_of(key: CounterKey, secret: bytes) -> bytes:
    """Return the digest of `key` under `secret`, of up to 64 bytes, without which nobody can choose what collides."""
    digest = blake2b(digest_size=DIGEST_BYTES, key=secret)
    for part in key:
        encoded = part.encode(errors="surrogatepass")
        digest.update(len(encoded).to_bytes(8))
        digest.update(encoded)
    return digest.digest()


class Sketch:
    """Counts by digest, in `ROWS` rows of `width` cells (a power of two, up to 2^32) that keys share.

    A count is never less than what was added under its key since the sketch was made. It is more only if in every row
    another key has the same cell: with a flood of N hits that is expected to add no more than N ÷ width.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._cells = array("I", bytes(4 * ROWS * width))

    @property
    def cells(self) -> int:
        """How many cells the sketch takes, each of 4 bytes."""
        return len(self._cells)

    def places(self, digest: bytes) -> Sequence[int]:
        """Return the cells of the key with `digest`."""
        width = self._width
        return [row * width + bits % width for row, bits in enumerate(_PLACES.unpack(digest))]

    def count(self, places: Sequence[int]) -> int:
        """Return the count of the key whose cells are `places`."""
        cells = self._cells
        return min([cells[place] for place in places])

    def raise_to(self, places: Sequence[int], count: int) -> None:
        """Let the key's count be at least `count`. What is over it already stays, and above 2^32 - 1 is the same."""
        cells, count = self._cells, min(count, MAX_UINT32)
        for place in places:
            cells[place] = max(cells[place], count)
