"""Laws of Merkle trees, against the definitions of RFC 9162 written down as they stand there."""

from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from app.ca.rules.merkle import (
    TILE_LEVELS,
    Frontier,
    Node,
    consistency_spans,
    inclusion_spans,
    is_consistent,
    is_included,
    leaf_hash,
    node_hash,
    span_hash,
    tiles_under,
)

MAX_SIZE = 700  # ten tiles of leaves
ENTRIES = [str(number).encode() for number in range(MAX_SIZE)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]
SIZES = st.integers(1, MAX_SIZE)


def split(size):
    power = 1
    while power * 2 < size:
        power *= 2
    return power


def tree_hash(entries):
    if not entries:
        return sha256(b"").digest()
    if len(entries) == 1:
        return sha256(b"\0" + entries[0]).digest()
    k = split(len(entries))
    return sha256(b"\1" + tree_hash(entries[:k]) + tree_hash(entries[k:])).digest()


def path(index, entries):
    if len(entries) == 1:
        return []
    k = split(len(entries))
    if index < k:
        return [*path(index, entries[:k]), tree_hash(entries[k:])]
    return [*path(index - k, entries[k:]), tree_hash(entries[:k])]


def subproof(first, entries, whole):
    if first == len(entries):
        return [] if whole else [tree_hash(entries)]
    k = split(len(entries))
    if first <= k:
        return [*subproof(first, entries[:k], whole), tree_hash(entries[k:])]
    return [*subproof(first - k, entries[k:], False), tree_hash(entries[:k])]


def stored_nodes(size):
    _, nodes = Frontier().grown(LEAVES[:size])
    return {**nodes, **{Node(0, index): leaf for index, leaf in enumerate(LEAVES[:size])}}


STORED = stored_nodes(MAX_SIZE)


def proof(spans, size):
    """The hashes of the spans, computed from what the tiles have of a tree of this size."""
    tiles = tiles_under(spans)

    def stored(node):
        assert any(tile.level == node.level and tile.number == node.index >> TILE_LEVELS for tile in tiles)
        assert (node.index + 1) << node.level <= size
        return STORED[node]

    return [span_hash(span, stored) for span in spans]


@given(SIZES, st.integers(0, MAX_SIZE))
def test_a_tree_that_grows_has_the_hash_of_its_leaves(size, first):
    first = min(first, size)
    whole, nodes = Frontier().grown(LEAVES[:size])
    begun, some = Frontier().grown(LEAVES[:first])
    grown, others = begun.grown(LEAVES[first:size])
    assert grown == whole
    assert {**some, **others} == nodes
    assert whole.root == tree_hash(ENTRIES[:size])
    assert all(tree_hash(ENTRIES[n.index << n.level : (n.index + 1) << n.level]) == node for n, node in nodes.items())


def test_the_empty_tree_has_the_hash_of_nothing():
    assert Frontier().root == tree_hash([])


@given(SIZES, st.data())
def test_an_inclusion_proof_is_that_of_the_definition_and_holds(size, data):
    index = data.draw(st.integers(0, size - 1))
    made = proof(inclusion_spans(index, size), size)
    assert made == path(index, ENTRIES[:size])
    assert is_included(LEAVES[index], index, size, made, tree_hash(ENTRIES[:size]))


@given(SIZES, st.data())
def test_a_consistency_proof_is_that_of_the_definition_and_holds(second, data):
    first = data.draw(st.integers(1, second))
    made = proof(consistency_spans(first, second), second)
    assert made == subproof(first, ENTRIES[:second], True)
    assert is_consistent(first, tree_hash(ENTRIES[:first]), second, tree_hash(ENTRIES[:second]), made)


@given(SIZES, st.data())
def test_no_other_leaf_place_size_or_hash_passes_with_an_inclusion_proof(size, data):
    index = data.draw(st.integers(0, size - 1))
    made, root = path(index, ENTRIES[:size]), tree_hash(ENTRIES[:size])
    leaf = LEAVES[index]
    other = data.draw(st.integers(0, size + 1).filter(lambda place: place != index))
    assert not is_included(leaf, other, size, made, root)
    assert not is_included(leaf_hash(b"other"), index, size, made, root)
    assert not is_included(leaf, index, size, [*made, leaf], root)
    if made:
        assert not is_included(leaf, index, size, made[:-1], root)
        changed = data.draw(st.integers(0, len(made) - 1))
        assert not is_included(leaf, index, size, [*made[:changed], b"\0" * 32, *made[changed + 1 :]], root)


@given(SIZES, st.data())
def test_a_tree_whose_past_was_changed_is_not_consistent(second, data):
    first = data.draw(st.integers(1, second))
    changed = data.draw(st.integers(0, first - 1))
    entries = [*ENTRIES[:changed], b"changed", *ENTRIES[changed + 1 : second]]
    old, new = tree_hash(ENTRIES[:first]), tree_hash(entries)
    for made in (subproof(first, entries, True), subproof(first, ENTRIES[:second], True)):
        assert not is_consistent(first, old, second, new, made)


@given(SIZES, st.lists(st.binary(min_size=32, max_size=32), max_size=12), st.integers(-1, MAX_SIZE + 1))
def test_made_up_proofs_do_not_pass(second, made_up, first):
    root = tree_hash(ENTRIES[:second])
    assert not is_included(LEAVES[0], first, second, [*made_up, b"\1" * 32], root)
    if 0 < first != second:
        assert not is_consistent(first, leaf_hash(b"x"), second, root, made_up)


def test_trees_of_zero_leaves_and_equal_trees_need_no_proof():
    root, empty = tree_hash(ENTRIES[:5]), tree_hash([])
    assert is_consistent(0, empty, 5, root, [])
    assert is_consistent(5, root, 5, root, [])
    assert not is_consistent(5, root, 5, root, [root])
    assert not is_consistent(5, tree_hash(ENTRIES[:4]), 5, root, [])
    assert not is_consistent(0, root, 5, root, [])
    assert not is_consistent(6, root, 5, root, [])


def test_leaves_and_nodes_are_hashed_apart():
    assert node_hash(LEAVES[0], LEAVES[1]) != leaf_hash(LEAVES[0] + LEAVES[1])
