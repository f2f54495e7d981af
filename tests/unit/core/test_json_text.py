"""JSON objects: parsed from what others write, and one that stays its text."""

import pickle

import pytest

from app.core.errors import InvalidInputError
from app.core.json_text import JsonText, parse_object


@pytest.mark.parametrize("text", ['{"a": [1]}', b'{"a": [1]}', ' {"a":[1]}\n'])
def test_an_object_is_parsed(text):
    assert parse_object(text, "the file") == {"a": [1]}


@pytest.mark.parametrize("text", ["", "{", b"\xff{}", "[" * 100_000, "{} {}"])
def test_what_is_no_json_is_refused_by_its_name(text):
    with pytest.raises(InvalidInputError, match=r"^the file is not JSON$"):
        parse_object(text, "the file")


@pytest.mark.parametrize("text", ["[]", "null", '"{}"', "1"])
def test_another_value_is_refused_by_its_name(text):
    with pytest.raises(InvalidInputError, match=r"^the file is not a JSON object$"):
        parse_object(text, "the file")


def test_it_is_the_mapping_that_its_text_describes():
    text = JsonText('{"b": [1, null], "a": {"c": "\\u00e9"}}')
    assert text == {"a": {"c": "é"}, "b": [1, None]}
    assert text == {"a": {"c": "é"}, "b": [1, None]}
    assert (list(text), len(text), text["b"]) == (["b", "a"], 2, [1, None])
    assert text != {"a": 1}
    assert text != '{"b": [1, null], "a": {"c": "\\u00e9"}}'


def test_two_texts_are_equal_if_their_content_is():
    one, other = JsonText('{"a": 1, "b": 2}'), JsonText('{"b":2,"a":1}')
    assert one == other
    assert hash(one) == hash(other)
    assert one != JsonText('{"a": 1}')


def test_a_mapping_becomes_text_once():
    text = JsonText.of({"a": "é"})
    assert text.text == '{"a": "\\u00e9"}'
    assert JsonText.of(text) is text
    assert pickle.loads(pickle.dumps(text)).text == text.text


@pytest.mark.parametrize("text", ["", "[]", "1", "{", '"a"'])
def test_what_is_no_object_is_an_error(text):
    with pytest.raises(ValueError, match=r".+"):
        JsonText(text).value()
