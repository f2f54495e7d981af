"""A fault of meaning has the line that it stands on."""

import pytest

from app.core.errors import InvalidInputError, Violation
from app.documents.kind import DocumentKind
from app.documents.lines import MAX_PATH_LENGTH, with_lines
from app.documents.model import DocumentKey
from app.documents.parser import parse_documents
from app.documents.reader import Reader

TEXT = b"""# a comment
name: first
rules:
- from: a
  to:
    port: 1
- &shared
  "with.dot": 2
  from: b
- *shared
- <<: *shared
  to: c
---
---
- name: second
- {name: third,
   rules: [
     {from: x}]}
---
kind: NoteList
items:
- name: fourth
- rules: []
"""


def lines(text, *paths):
    return [each.line for each in with_lines(text, [Violation(path, "is wrong") for path in paths])]


def test_a_path_has_the_line_of_its_key_or_item():
    assert lines(
        TEXT,
        "documents[0].name",
        "documents[0].rules",
        "documents[0].rules[0]",
        "documents[0].rules[0].to.port",
        "documents[0].rules[1].with.dot",
        "documents[1].name",
        "documents[2].rules[0].from",
        "documents[3].name",
        "documents[4].rules",
    ) == [2, 3, 4, 6, 8, 15, 18, 22, 23]


def test_what_is_missing_or_comes_from_elsewhere_has_the_line_of_what_it_is_in():
    assert lines(
        TEXT,
        "documents[0].rules[0].to.host",
        "documents[0].rules[2].from",
        "documents[0].rules[3].from",
        "documents[0].kind",
        "documents[1].rules[7].from",
        "documents[4].name",
        "documents[2]",
    ) == [5, 10, 11, 2, 15, 23, 16]


def test_a_single_document_needs_no_number():
    assert lines(b"\n\na:\n  b: 1\n", "a.b", "a", "", "c") == [4, 3, 3, 3]


@pytest.mark.parametrize("mark", [".", "[", "a."])
def test_a_key_that_is_long_and_looks_like_a_path_costs_little(mark):
    key = mark * MAX_PATH_LENGTH * 100
    text = b'a: 1\n? "%b"\n: 1\n' % key.encode()
    assert lines(text, *[key] * 100) == [1] * 100


def test_a_document_that_is_json_has_lines_too():
    text = b'[\n {"name": "a\\ud83d\\ude00"},\n {"name":\n 5}\n]'
    assert lines(text, "documents[1].name") == [3]


def _read(reader: Reader) -> str:
    name = reader.text("name") or ""
    reader.close()
    return name


NAMES = DocumentKind("n", "name", "names", "name", _read, lambda name: DocumentKey("", name), lambda _: True, 10, 1000)


def test_a_kind_names_the_line_where_it_has_the_text():
    text = b"name: a\nnmae: b\n"
    with pytest.raises(InvalidInputError, match="name is not valid: line 2: nmae: is not a field here") as caught:
        NAMES.parse(parse_documents(text), text=text)
    assert [(each.line, each.path) for each in caught.value.violations] == [(2, "nmae")]
    with pytest.raises(InvalidInputError, match="name is not valid: nmae: is not a field here"):
        NAMES.parse(parse_documents(text))
