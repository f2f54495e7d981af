"""Counts that share cells: never too low, and too high only where every cell is shared."""

import pytest

from app.quota.backends.sketch import ROWS, Sketch, digest_of

SECRET = bytes(32)
WIDTH = 1024


def places(sketch, name):
    return sketch.places(digest_of((name,), SECRET))


def add(sketch, name, hits):
    here = places(sketch, name)
    sketch.raise_to(here, sketch.count(here) + hits)


def test_counts_add_up_and_are_those_of_the_key():
    sketch = Sketch(WIDTH)
    for name, hits in [("a", 3), ("b", 40), ("a", 2)]:
        add(sketch, name, hits)
    assert [sketch.count(places(sketch, name)) for name in ("a", "b", "c")] == [5, 40, 0]


def test_each_row_has_its_own_cells():
    sketch = Sketch(WIDTH)
    assert [place // WIDTH for place in places(sketch, "a")] == list(range(ROWS))
    assert sketch.cells == ROWS * WIDTH


def test_counts_end_at_the_largest_that_a_cell_holds():
    sketch = Sketch(WIDTH)
    add(sketch, "a", 2**40)
    add(sketch, "a", 1)
    assert sketch.count(places(sketch, "a")) == 2**32 - 1


def test_which_keys_share_cells_depends_on_the_secret():
    sketch = Sketch(WIDTH)
    assert sketch.places(digest_of(("a",), SECRET)) != sketch.places(digest_of(("a",), b"\1" * 32))


@pytest.mark.parametrize(
    ("limit", "keys", "hits"), [(1, 0.4, 1), (100, 0.4, 100), (5, 1.6 * 5, 1), (100, 1.6 * 100, 1)]
)
def test_a_flood_that_others_notice_is_as_large_as_documented(limit, keys, hits):
    """`keys` is in widths; each of them makes `hits`."""
    width = 256
    sketch = Sketch(width)
    for number in range(int(keys * width)):
        add(sketch, f"flood {number}", hits)
    refused = [sketch.count(places(sketch, f"new {number}")) + 1 > limit for number in range(2000)]
    assert sum(refused) < len(refused) / 50
