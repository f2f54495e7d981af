"""A JSON object that stays its text."""

import pickle

import pytest

from app.core.json_text import JsonText


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
