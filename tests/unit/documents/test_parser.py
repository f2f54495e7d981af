"""YAML and JSON documents: what they become, and what is refused with its place."""

import json

import pytest

from app.core.errors import InvalidInputError
from app.documents import parser as documents
from app.documents.parser import parse_documents


def one(text: str) -> object:
    (document,) = parse_documents(text.encode())
    return document["a"]


def place_of(text: str | bytes) -> str:
    with pytest.raises(InvalidInputError) as caught:
        parse_documents(text if isinstance(text, bytes) else text.encode())
    assert caught.value.violations
    return caught.value.violations[0].path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: yes", "yes"),
        ("a: off", "off"),
        ("a: 2026-11-22", "2026-11-22"),
        ("a: 2026-11-22T10:00:00Z", "2026-11-22T10:00:00Z"),
        ("a: 010", "010"),
        ("a: 0x1F", "0x1F"),
        ("a: 1_000", "1_000"),
        ("a: 12:30", "12:30"),
        ("a: 42", 42),
        ("a: -7", -7),
        ("a: 1.5", 1.5),
        ("a: 1e3", 1000.0),
        ("a: true", True),
        ("a: 'true'", "true"),
        ("a: True", "True"),
        ("a: FALSE", "FALSE"),
        ("a: !!str 5", "5"),
        ("a: ~", None),
        ("a:", None),
        ("a: null", None),
        ("a: [1, two, {b: c}]", [1, "two", {"b": "c"}]),
        ("a: ''", ""),
    ],
)
def test_scalars_are_what_is_written(text, value):
    assert one(text) == value
    assert type(one(text)) is type(value)


def test_documents_are_separated_and_empty_ones_are_left_out():
    assert parse_documents(b"---\n---\na: 1\n---\n# nothing\n---\nb: 2\n") == ({"a": 1}, {"b": 2})
    assert parse_documents(b"") == ()


def test_json_is_read_with_its_escapes_and_tabs():
    document = {"a": 'quote " slash / ä \u2028', "b": [1, 2.5, None, True], "c": {}}
    assert parse_documents(json.dumps(document).encode()) == (document,)
    assert parse_documents(b'{\n\t"a":1,\n\t"b":"x\\/y"\n}') == ({"a": 1, "b": "x/y"},)


@pytest.mark.parametrize("text", ["\U0001f600", "a\U0001f600\U0010fffd b", "\\ud83d\\ude00", "\\\U0001f600", "\\"])
def test_json_is_read_with_characters_that_it_spells_as_two_escapes(text):
    document = {"key": text, text: {"nested": [text, text]}}
    assert parse_documents(json.dumps(document).encode()) == (document,)


def test_a_text_that_only_looks_like_a_pair_of_escapes_stays_as_it_is():
    assert parse_documents(b"a: \\ud83d\\ude00") == ({"a": "\\ud83d\\ude00"},)
    with pytest.raises(InvalidInputError):
        parse_documents(b'{"a": "\\ude00\\ud83d"}')


def test_a_json_array_and_a_kubernetes_list_stand_for_their_items():
    assert parse_documents(b'[{"a": 1}, {"b": 2}]') == ({"a": 1}, {"b": 2})
    assert parse_documents(b"apiVersion: v1\nkind: List\nmetadata: {}\nitems:\n- a: 1\n- b: 2\n") == (
        {"a": 1},
        {"b": 2},
    )


def test_a_list_with_a_field_that_lists_do_not_have_is_refused():
    assert place_of("kind: List\nitems: []\nspec: {}") == "line 1"


def test_aliases_are_expanded():
    assert parse_documents(b"a: &x [1, 2]\nb: *x") == ({"a": [1, 2], "b": [1, 2]},)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: {<<: *x, z: 3}", {"k": 1, "l": 2, "z": 3}),
        ("a: {k: 3, <<: *x}", {"k": 3, "l": 2}),
        ("a: {<<: [*y, *x]}", {"k": 7, "l": 2, "m": 8}),
        ("a: {<<: [*x, *y]}", {"k": 1, "l": 2, "m": 8}),
        ("a: {<<: {k: 5}}", {"k": 5}),
        ("a: {<<: []}", {}),
        ("b: &b {<<: *x, m: 4}\na: {<<: *b}", {"k": 1, "l": 2, "m": 4}),
        ("a: {'<<': 1}", {"<<": 1}),
        ("a: [<<]", ["<<"]),
    ],
)
def test_merge_keys_add_fields_that_the_mapping_does_not_have(text, value):
    assert one(f"x: &x {{k: 1, l: 2}}\ny: &y {{k: 7, m: 8}}\n{text}") == value


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: 1\nb: 2\na: 3", "line 3, column 1"),
        ("x:\n  - a: 1\n    a: 2", "line 3, column 5"),
        ('{"a": 1,\n "a": 1}', "line 2, column 2"),
        ("1.5: x", "line 1, column 1"),
        ("true: x", "line 1, column 1"),
        ("? [a]\n: x", "line 1, column 3"),
        ("a: &k b\n*k : 1", "line 2, column 1"),
        ("<<: text", "line 1, column 5"),
        ("<<:", "line 1, column 4"),
        ("x: &x [1]\n<<: *x", "line 2, column 5"),
        ("x: &x {}\n<<: [*x, text]", "line 2, column 14"),
        ("<<: {a: 1}\n<<: {b: 1}", "line 2, column 1"),
        ("a: .inf", "line 1, column 4"),
        ("a: .nan", "line 1, column 4"),
        ("a: 1e999", "line 1, column 4"),
        ("a: " + "9" * 33, "line 1, column 4"),
        ("a: !!python/object:os.system x", "line 1, column 4"),
        ("a: !!int 5", "line 1, column 4"),
        ("a: !!set {x}", "line 1, column 4"),
        ("a: *nothing", "line 1, column 4"),
        ("a: &x [*x]", "line 1, column 8"),
        ("a: [1, 2", "line 2, column 1"),
        ("a: b: c", "line 1, column 5"),
        ("a: -", "line 1, column 4"),
        ("a:\n\t- b", "line 2, column 1"),
        ("just text", "line 1"),
        ("a: 1\n---\n- b: 1\n- 7", "line 2"),
        ('"\\ud83d\\ude00": 1', "line 1, column 4"),
        ("a: 1\nb: \x00", "line 2"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(text, place):
    assert place_of(text).startswith(place)


def test_bytes_that_are_not_utf_8_are_refused_with_the_line():
    with pytest.raises(InvalidInputError, match="line 2"):
        parse_documents(b"a: 1\nb: \xff")


def test_a_byte_order_mark_is_accepted():
    assert parse_documents(b"\xef\xbb\xbfa: 1") == ({"a": 1},)


def test_an_alias_bomb_is_refused_before_it_grows():
    levels = "\n".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 12))
    assert place_of(f"l0: &l0 [x, x, x]\n{levels}")


def test_a_bomb_of_merge_keys_is_refused_before_it_grows():
    levels = "\n".join(f"l{n}: &l{n} {{<<: [{', '.join([f'*l{n - 1}'] * 10)}], k{n}: x}}" for n in range(1, 12))
    assert place_of(f"l0: &l0 {{k: x}}\n{levels}")
    wide = "w: &w {" + ", ".join(f"k{n}: x" for n in range(1000)) + "}"
    assert place_of(f"{wide}\na: {{<<: [{', '.join(['*w'] * 1000)}]}}").startswith("line 2")


def test_a_long_text_that_is_aliased_often_is_refused(monkeypatch):
    monkeypatch.setattr(documents, "MAX_EXPANDED_CHARACTERS", 5_000)
    parse_documents(f"a: &x {'y' * 1_000}\nb: [*x, *x]".encode())
    assert place_of(f"a: &x {'y' * 1_000}\nb: [*x, *x, *x, *x, *x]").startswith("line 2")


def test_nesting_beyond_the_bound_is_refused_also_through_aliases():
    deep = "[" * (documents.MAX_DEPTH - 1) + "]" * (documents.MAX_DEPTH - 1)
    parse_documents(f"a: {deep}".encode())
    assert place_of(f"a: [{deep}]").startswith("line 1")
    assert place_of(f"a: &x {deep}\nb: [*x]").startswith("line 2")
    assert place_of("a: " + "[" * 100_000).startswith("line 1")


def test_size_and_number_are_bounded(monkeypatch):
    with pytest.raises(InvalidInputError, match="longer than"):
        parse_documents(b"#" * (documents.MAX_TEXT_BYTES + 1))
    monkeypatch.setattr(documents, "MAX_DOCUMENTS", 2)
    with pytest.raises(InvalidInputError, match="more than 2 documents"):
        parse_documents(b'[{"a": 1}, {"a": 1}, {"a": 1}]')
    monkeypatch.setattr(documents, "MAX_NODES", 5)
    assert place_of("a: [1, 2, 3, 4]").startswith("line 1")


def test_a_key_that_is_a_number_is_its_text():
    assert list(parse_documents(b"ports: {8080: a}")) == [{"ports": {"8080": "a"}}]
    for text, problem in ((b"{8080: a, '8080': b}", "twice"), (b"{1.5: a}", "quotes")):
        with pytest.raises(InvalidInputError, match=problem):
            parse_documents(text)
