"""The subset of CEL: values, what has none, what cannot be read, and what an expression needs to hold."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import InvalidInputError
from app.quota.rules.cel import MAX_EXPRESSION, EvaluationError, equalities, evaluate, parse_expression

DESCRIPTORS = [{"req.method": "GET", "user": "ann", "n": "5", "empty": ""}, {"user": "bob"}]


def value_of(text):
    return evaluate(parse_expression(text), DESCRIPTORS)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("descriptors[0]['req.method'] == 'GET'", True),
        ('descriptors[1].user == "bob"', True),
        ("descriptors[0].user != 'ann'", False),
        ("descriptors[0].user == 5", False),
        ("true == 1", False),
        ("int(descriptors[0].n) % 3 == 2 && size(descriptors) == 2", True),
        ("descriptors[0].user in ['x', 'ann']", True),
        ("'user' in descriptors[0] && !('x' in descriptors[0])", True),
        ("has(descriptors[0].user) && !has(descriptors[0].x)", True),
        ("descriptors[0].user.startsWith('a') ? 1 + 2 * 3 : 0", 7),
        ("descriptors[0].user.endsWith('n') && descriptors[0].user.contains('nn')", True),
        ("descriptors[0].user.size() + size('é') - -1", 5),
        ("-7 / 2", -3),
        ("-7 % 2", -1),
        ("7.0 / 2.0", 3.5),
        ("'a' + 'b' < 'b' == true", True),
        ("1 <= 1 && 2 >= 3 || 0x10 == 16 && 5u == 5", True),
        ("null == null", True),
        (r"""'\x41\u00e9\n\'' == 'Aé' + '\n' + "'" """, True),
        ("double('1.5') + 1.0 == 2.5 && string(1) + string(true) == '1true'", True),
        # What one operand decides stands, whatever the other comes to.
        ("descriptors[0].x == 'a' || descriptors[0].user == 'ann'", True),
        ("descriptors[0].x == 'a' && descriptors[0].user == 'bob'", False),
        ("size([1, 2]) == 2", True),
    ],
)
def test_an_expression_has_its_value(text, value):
    assert value_of(text) == value
    assert type(value_of(text)) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "descriptors[0].x == 'a'",
        "descriptors[9].user",
        "descriptors[-1].user",
        "descriptors[0].x == 'a' || false",
        "descriptors[0].x == 'a' && true",
        "!1",
        "1 + 'a'",
        "'a' < 1",
        "1 + 1.0",
        "1 / 0",
        "1 % 0",
        "9223372036854775807 + 1",
        "int('x')",
        "int('99999999999999999999')",
        "int(1e300)",
        "double('x')",
        "'a' ? 1 : 2",
        "size(5)",
        "1 in 'a'",
        "descriptors[0]['user'].user",
        "string([1])",
    ],
)
def test_an_expression_without_a_value_says_so(text):
    with pytest.raises(EvaluationError):
        value_of(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the end"),
        ("1 +", "the end"),
        ("1 2", "where it cannot be"),
        ("(1", "the end"),
        ("[1 2]", "where it cannot be"),
        ("request.path == '/'", "variable that does not exist: request"),
        ("has(1)", "write has("),
        ("size()", "wrong number"),
        ("'a'.size(1)", "wrong number"),
        ("'x", "from character 1"),
        ("a = b", "from character"),
        (r"'\q'", "not supported, \\q"),
        ("9223372036854775808", "64 bits"),
        ("(" * 40 + "1" + ")" * 40, "nested deeper"),
        ("!" * 40 + "true", "nested deeper"),
        ("'" + "a" * MAX_EXPRESSION + "'", "longer than"),
    ],
)
def test_what_is_no_expression_is_refused(text, problem):
    with pytest.raises(InvalidInputError, match=re.escape(problem)):
        parse_expression(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("descriptors[0].a == 'x'", [(0, "a", "x")]),
        ("'x' == descriptors[1]['a.b'] && true && descriptors[0].c == 'y'", [(1, "a.b", "x"), (0, "c", "y")]),
        ("descriptors[0].a == 'x' || true", []),
        ("!(descriptors[0].a == 'x')", []),
        ("descriptors[0].a != 'x'", []),
        ("descriptors[0].a == 5", []),
        ("'a' == 'b'", []),
        ("descriptors[0].a.b == 'x'", []),
    ],
)
def test_the_values_that_an_expression_needs_are_known(text, found):
    assert list(equalities(parse_expression(text))) == found


@given(st.text(alphabet="descriptors[0].a'x\"=!&|<>+-*/%?:(),in \\u1", max_size=80))
def test_any_text_is_read_or_refused_and_has_a_value_or_none(text):
    try:
        expression = parse_expression(text)
        evaluate(expression, DESCRIPTORS)
    except (InvalidInputError, EvaluationError):
        return
