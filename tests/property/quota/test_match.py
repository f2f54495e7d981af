"""Matching agrees with a matcher that is written the slow way: as a walk over the document itself."""

import re

from hypothesis import example, given
from hypothesis import strategies as st

from app.quota.rules.parse import QUOTA_KIND
from app.quota.rules.tree import compile_config, compile_pattern, find_limit

KEYS = st.sampled_from(["a", "b", "a_b"])
VALUES = st.text(alphabet="ab_", max_size=4)
PATTERNS = st.text(alphabet="ab*", max_size=4)
LIMITS = st.none() | st.integers(0, 1000)


def descriptors(depth):
    children = descriptors(depth - 1) if depth else st.just([])
    return st.lists(
        st.tuples(KEYS, st.none() | VALUES | PATTERNS, LIMITS, children),
        max_size=5,
        unique_by=lambda item: f"{item[0]}_{item[1]}" if item[1] else item[0],
    )


def as_document(items):
    found = []
    for key, value, limit, children in items:
        descriptor = {"key": key, "descriptors": as_document(children)}
        if value is not None:
            descriptor["value"] = value
        if limit is not None:
            descriptor["rate_limit"] = {"unit": "day", "requests_per_unit": limit}
        found.append(descriptor)
    return found


def glob(pattern, value):
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), value, re.DOTALL) is not None


def naive(items, entries):
    """Exact, then the first pattern, then the bare key; then on with the rest, never back."""
    (key, value), *rest = entries
    named = [item for item in items if item[0] == key]
    chosen = (
        [item for item in named if item[1] and item[1] == value]
        or [item for item in named if item[1] and "*" in item[1] and glob(item[1], value)]
        or [item for item in named if not item[1]]
    )
    if not chosen:
        return None
    _, _, limit, children = chosen[0]
    return naive(children, rest) if rest else limit


@given(descriptors(2), st.lists(st.tuples(KEYS, VALUES | PATTERNS), min_size=1, max_size=4))
@example([("a", "*", 1, []), ("a", "b*", 2, []), ("a", None, 3, [])], [("a", "bb")])
def test_the_compiled_tree_agrees_with_the_document(items, entries):
    root = compile_config(QUOTA_KIND.parse([{"domain": "d", "descriptors": as_document(items)}])[0]).root
    applied = find_limit(root, tuple(entries))
    assert (applied.limit.requests_per_unit if applied else None) == naive(items, entries)


@given(st.text(alphabet="ab*", max_size=8).filter(lambda text: "*" in text), st.text(alphabet="ab", max_size=10))
def test_a_pattern_fits_what_the_regular_expression_of_the_same_meaning_fits(pattern, value):
    assert compile_pattern(pattern).matches(value) == glob(pattern, value)
