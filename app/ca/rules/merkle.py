"""Merkle trees as RFC 9162, section 2.1, defines them: hashes, growth, proofs and their verification.

Leaves are numbered from 0. A node is a complete subtree: that of `level` and `index` has the `2**level` leaves from
`index * 2**level` on. Nodes whose level is a multiple of `TILE_LEVELS` are stored, and every other one is computed from
those: a proof reads a few runs of 64 hashes, whatever the size of the tree.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

HASH_BYTES = 32
TILE_LEVELS = 6
TILE_WIDTH = 2**TILE_LEVELS

_LEAF, _NODE = b"\0", b"\1"


@dataclass(frozen=True, slots=True)
class Node:
    """The place of a complete subtree."""

    level: int
    index: int


@dataclass(frozen=True, slots=True)
class Tile:
    """A run of `TILE_WIDTH` stored nodes of one level, of which those at the end of the tree may be missing."""

    level: int
    number: int


@dataclass(frozen=True, slots=True)
class Frontier:
    """All that is needed to go on with a tree: its size and the roots of the complete subtrees in it, largest first."""

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    @property
    def root(self) -> bytes:
        """The hash of the whole tree (section 2.1.1)."""
        if not self.peaks:
            return sha256(b"").digest()
        root = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            root = node_hash(peak, root)
        return root

    def grown(self, leaves: Sequence[bytes]) -> tuple["Frontier", dict[Node, bytes]]:
        """Return the frontier after the hashes of more leaves, and the nodes to store that these completed."""
        size, peaks, completed = self.size, list(self.peaks), dict[Node, bytes]()
        for leaf in leaves:
            node, level = leaf, 0
            while size >> level & 1:
                node, level = node_hash(peaks.pop(), node), level + 1
                if level % TILE_LEVELS == 0:
                    completed[Node(level, size >> level)] = node
            peaks.append(node)
            size += 1
        return Frontier(size, tuple(peaks)), completed


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of a leaf with this content."""
    return sha256(_LEAF + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of the node above two others."""
    return sha256(_NODE + left + right).digest()


Span = tuple[int, int]
"""The leaves from the first number up to, and without, the second."""


def inclusion_spans(index: int, size: int) -> list[Span]:
    """Return the leaves under each node of the proof that leaf `index` is in a tree of `size` (section 2.1.3.1)."""
    spans: list[Span] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            spans.append((middle, end))
            end = middle
        else:
            spans.append((start, middle))
            start = middle
    return spans[::-1]


def consistency_spans(first: int, second: int) -> list[Span]:
    """Return the leaves under each node of the proof that a tree of `second` leaves begins with one of `first`.

    Section 2.1.4.1; 0 < `first` <= `second`.
    """
    spans: list[Span] = []
    start, end, whole = 0, second, True
    while end != first:
        middle = start + _split(end - start)
        if first <= middle:
            spans.append((middle, end))
            end = middle
        else:
            spans.append((start, middle))
            start, whole = middle, False
    if not whole:
        spans.append((start, end))
    return spans[::-1]


def tiles_under(spans: Sequence[Span]) -> set[Tile]:
    """Return the tiles with the stored nodes from which `span_hash` computes these spans."""
    # The stored nodes under a node begin at a multiple of their number, which divides a tile: they are in one.
    runs = [_stored_run(node) for span in spans for node in _complete_nodes(span)]
    return {Tile(level, first // TILE_WIDTH) for level, first, _ in runs}


def span_hash(span: Span, stored: Callable[[Node], bytes]) -> bytes:
    """Return the hash of the subtree over a span that begins where such a subtree may. `stored` reads a stored node."""
    hashes = [_hash_of(node, stored) for node in _complete_nodes(span)]
    result = hashes.pop()
    while hashes:
        result = node_hash(hashes.pop(), result)
    return result


def is_included(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether a proof shows that a leaf of this hash is the one at `index` of the tree of `size` (section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    place, last, result = index, size - 1, leaf
    for node in proof:
        if last == 0:
            return False
        if place & 1 or place == last:
            result = node_hash(node, result)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            result = node_hash(result, node)
        place, last = place >> 1, last >> 1
    return last == 0 and result == root


def is_consistent(first: int, first_root: bytes, second: int, second_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether a proof shows that the tree of `second` leaves begins with that of `first` (section 2.1.4.2)."""
    if not 0 < first <= second:
        return first == 0 and not proof and first_root == Frontier().root
    if first == second:
        return not proof and first_root == second_root
    path = list(proof)
    if first & (first - 1) == 0:
        path.insert(0, first_root)
    if not path:
        return False
    place, last = first - 1, second - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    old = new = path[0]
    for node in path[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            old, new = node_hash(node, old), node_hash(node, new)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            new = node_hash(new, node)
        place, last = place >> 1, last >> 1
    return last == 0 and old == first_root and new == second_root


def _split(size: int) -> int:
    """Return the largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1


def _complete_nodes(span: Span) -> Iterator[Node]:
    """Yield the complete subtrees that a span consists of, from its begin."""
    start, end = span
    while start < end:
        level = (end - start).bit_length() - 1
        if start:
            level = min(level, (start & -start).bit_length() - 1)
        yield Node(level, start >> level)
        start += 1 << level


def _stored_run(node: Node) -> tuple[int, int, int]:
    """Return the level of the stored nodes under a node, the first of them, and how many there are."""
    below = node.level % TILE_LEVELS
    return node.level - below, node.index << below, 1 << below


def _hash_of(node: Node, stored: Callable[[Node], bytes]) -> bytes:
    level, first, count = _stored_run(node)
    hashes = [stored(Node(level, index)) for index in range(first, first + count)]
    while len(hashes) > 1:
        hashes = [node_hash(left, right) for left, right in zip(hashes[::2], hashes[1::2], strict=True)]
    return hashes[0]
