"""The names of counters: each is that of one key, and says which."""

from hypothesis import given
from hypothesis import strategies as st

from app.quota.backends.listing import joined, name_of
from app.quota.backends.valkey.wire import counter_of, key_of
from app.quota.rules.names import read_name, write_name

TEXTS = st.text(st.characters(exclude_categories=()) | st.sampled_from(",{}:=%0123456789"), max_size=80)
KEYS = st.lists(TEXTS, max_size=5).map(tuple)


@given(KEYS, KEYS)
def test_a_name_in_the_store_is_of_one_key_and_has_one_hash_tag(key, other):
    name = key_of("t", "limit", key)
    assert (name == key_of("t", "limit", other)) == (key == other)
    assert name.count(b"{") == name.count(b"}") == 1
    read = counter_of("t", name)
    assert read is not None
    assert read[0] == "limit"
    assert read[1] == key or (isinstance(read[1], bytes) and b"=" not in name)


@given(st.binary(max_size=80) | TEXTS.map(lambda text: f"t:limit:{{={text}}}".encode(errors="surrogatepass")))
def test_what_else_is_in_the_store_is_no_counter_or_one_that_reads_back(name):
    found = counter_of("t", name)
    assert found is None or isinstance(found[1], tuple | bytes)


@given(KEYS, KEYS)
def test_values_in_one_text_are_of_one_key(key, other):
    assert (joined(key) == joined(other)) == (key == other)
    assert name_of(joined(key)) == key
    assert name_of(key) == key


@given(KEYS | st.binary(max_size=32))
def test_a_name_is_read_as_it_was_written(key):
    assert read_name(write_name(("limit", key))) == ("limit", key)
