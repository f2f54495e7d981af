"""The MAC of a row is of its table, its columns and its values, and of nothing else."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import InternalError
from app.db.macs import RowMacs
from app.spiffe.id import SpiffeId

VALUES = st.one_of(
    st.none(),
    st.text(max_size=4),
    st.binary(max_size=4),
    st.integers(),
    st.datetimes(timezones=st.just(UTC)),
    st.timedeltas().map(lambda each: timedelta(seconds=int(each.total_seconds()))),
    st.lists(st.text(max_size=3), max_size=3).map(tuple),
)
ROWS = st.dictionaries(st.text("ab", max_size=2), VALUES, max_size=3)
MACS = RowMacs(lambda: bytes(32))
NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def same(one, other):
    """Equal, and of the same types, which `==` does not ask for."""
    return one == other and {key: type(value) for key, value in one.items()} == {
        key: type(value) for key, value in other.items()
    }


@given(ROWS, ROWS)
def test_two_rows_have_one_mac_if_and_only_if_they_are_one(one, other):
    assert MACS.verifies("t", one, MACS.mac("t", other)) == same(one, other)


@given(ROWS, st.permutations(["b", "a", "aa"]))
def test_the_order_of_columns_does_not_matter(row, order):
    row = {**row, "a": 1, "b": "2", "aa": None}
    assert MACS.mac("t", row) == MACS.mac("t", {**{name: row[name] for name in order}, **row})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": "xy", "b": "z"}, {"a": "x", "b": "yz"}),
        ({"a": ("x", "y")}, {"a": ("xy",)}),
        ({"a": ("x",), "b": ()}, {"a": (), "b": ("x",)}),
        ({"a": None}, {"a": ""}),
        ({"a": b"x"}, {"a": "x"}),
        ({"a": 1}, {"a": "1"}),
        ({"a": NOW}, {"a": NOW + timedelta(microseconds=1)}),
        ({"a": NOW, "b": None}, {"a": None, "b": NOW}),
    ],
)
def test_what_is_moved_between_columns_or_items_is_another_row(one, other):
    assert not MACS.verifies("t", one, MACS.mac("t", other))


def test_a_mac_is_of_one_table_and_one_secret():
    row = {"id": "a", "spiffe_id": SpiffeId.parse("spiffe://example.org/a")}
    mac = MACS.mac("t", row)
    assert MACS.verifies("t", row, mac)
    assert not MACS.verifies("u", row, mac)
    assert not RowMacs(lambda: bytes([1] * 32)).verifies("t", row, mac)
    assert not MACS.verifies("t", row, None)
    assert not MACS.verifies("t", row, b"")
    assert not MACS.verifies("t", row, mac[:-1])


def test_a_value_without_an_encoding_is_refused():
    with pytest.raises(InternalError, match="float"):
        MACS.mac("t", {"a": 1.0})
