"""What any JSON writer wrote is read back as it was; any bytes at all are read or refused."""

import json

from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import InvalidInputError
from app.documents.parser import parse_documents

texts = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(texts.filter(lambda key: key != "kind"), values, max_size=5))
def test_json_round_trips(document):
    assert parse_documents(json.dumps(document).encode()) == (document,)


@given(st.binary(max_size=200) | st.text("ab:-[]{}&*!\"'\\\n \t#,?|>%@1.", max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused(text):
    try:
        documents = parse_documents(text)
    except InvalidInputError:
        return
    assert all(type(document) is dict for document in documents)


MAPPINGS = st.dictionaries(st.sampled_from("abc"), st.integers(0, 9), max_size=3)


@given(MAPPINGS, st.lists(MAPPINGS, max_size=3), st.booleans())
def test_a_merged_mapping_has_its_own_fields_and_else_those_of_the_first_source(own, sources, merged_first):
    fields = [f"{key}: {value}" for key, value in own.items()]
    merge = f"<<: [{', '.join(map(json.dumps, sources))}]"
    text = ", ".join([merge, *fields] if merged_first else [*fields, merge])
    (document,) = parse_documents(f"m: {{{text}}}".encode())
    expected = {}
    for source in reversed(sources):
        expected |= source
    assert document == {"m": expected | own}
