"""A file with what was last good is read as it was written, and with any byte changed it is refused."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import PreconditionError
from app.core.last_good import LastGoodFile

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.lists(JSON, max_size=5), st.data())
def test_a_file_is_read_as_it_was_written_or_refused(items, data):
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "last-good/notes"
        file = LastGoodFile(path, "notes", "the database")
        file.write(items)
        assert file.read(list) == items
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        with pytest.raises(PreconditionError):
            file.read(list)
