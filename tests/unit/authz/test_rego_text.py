"""Functions of embedded Rego on text: patterns, globs, case, numbers and networks, with OPA's results."""

import json

import pytest

from app.authz.backends.rego_engine import Loaded, rewritten
from app.authz.backends.rego_text import MAX_PATTERN
from app.authz.backends.rego_wire import DECISION
from app.core.errors import InvalidInputError


def evaluated(expression, **given):
    """Return what an expression is, or why it is nothing."""
    engine = Loaded([("p", f"package p\nx := [{expression}]")], "{}", "data.p.x", v0=False)
    reply = engine.reply(json.dumps(given).encode())
    engine.close()
    return json.loads(reply[1:])[0] if reply.startswith(DECISION) else reply[1:].decode()


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        (r"^\d+$", "12", True),
        (r"^\d+$", "١٢", False),
        (r"\W", "é", True),
        (r"^\w+$", "é", False),
        (r"\bb", "éb", True),
        (r"^[\w.+-]+@[\w-]+\.[\w.-]+$", "ann@example.org", True),
        (r"^\w+/\w+/\w+/\w+$", "a/b/c/d", True),
        (r"\<a\>", "a", False),
        (r"[a&&b]", "&", True),
        (r"^\Qa.b\E$", "a.b", True),
        (r"a$", "a\n", False),
        ("é.", "éé", True),
    ],
)
def test_patterns_are_read_as_opa_reads_them(pattern, text, found):
    assert evaluated("regex.match(input.p, input.t)", p=pattern, t=text) is found


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        (r'regex.is_valid("(")', False),
        (r'regex.is_valid("(?=a)")', False),
        (r"regex.is_valid(`\d`)", True),
        (r'regex.split(`\s+`, "a b  c ")', ["a", "b", "c", ""]),
        (r'regex.split("", "abc")', ["a", "b", "c"]),
        (r'[regex.split("", ""), regex.split("a", "")]', [[], [""]]),
        (r'regex.split("x*", "axb")', ["a", "b"]),
        (r'regex.find_n(`\d`, "1a2b3", 2)', ["1", "2"]),
        (r'regex.find_n(`\d`, "1a2b3", -1)', ["1", "2", "3"]),
        (r'regex.find_n(`\d`, "1a2b3", 0)', []),
        (r'regex.find_n("a*", "baac", -1)', ["", "aa", ""]),
        (r'regex.find_all_string_submatch_n("(a)|(b)", "ab", -1)', [["a", "a", ""], ["b", "", "b"]]),
        (r'regex.replace("abc", "(?P<n>b)", "<$1${n}$$$9>")', "a<bb$>c"),
        (r'regex.replace("abc", "b", "$1x")', "ac"),
    ],
)
def test_matches_are_found_split_and_replaced_as_opa_does(expression, value):
    assert evaluated(expression) == value


@pytest.mark.parametrize(
    ("glob", "delimiters", "text", "matches"),
    [
        ("/a/*", ["/"], "/a/b", True),
        ("/a/*", ["/"], "/a/b/c", False),
        ("/a/**", ["/"], "/a/b/c", True),
        ("a/**/b", ["/"], "a/b", False),
        ("*:*", [":"], "a:b", True),
        ("*:*", [":"], "a:b:c", False),
        ("*.org", [], "a.org", True),
        ("*.org", [], "a.b.org", False),
        ("*.org", None, "a.b.org", True),
        ("?", [], "é", True),
        ("[ab-c]", [], "-", True),
        ("[a-c]x", [], "bx", True),
        ("[!a-c]x", [], "bx", False),
        ("[!/]", ["/"], "/", False),
        ("{a,b{c,}}", [], "b", True),
        ("{a,b{c,}}", [], "bd", False),
        ("a,b}", [], "a,b}", True),
        (r"\*", [], "*", True),
        (r"\*", [], "a", False),
        ("a.c", ["/"], "abc", False),
        ("*", ["/"], "a\nb", True),
        ("***", ["."], "a.b", True),
        ("A*", [], "ab", False),
    ],
)
def test_globs_are_read_as_opa_reads_them(glob, delimiters, text, matches):
    assert evaluated("glob.match(input.g, input.d, input.t)", g=glob, d=delimiters, t=text) is matches


@pytest.mark.parametrize(
    ("glob", "problem"),
    [
        ("[a", "has no ]"),
        ("[]", "has nothing in it"),
        ("[c-a]", "neither a range nor a list"),
        ("[a-cx]", "neither a range nor a list"),
        ("{a", "has no }"),
        ("a\\", "has nothing after it"),
        ("{" * 17 + "}" * 17, "in each other"),
        ("a" * (MAX_PATTERN + 1), "longer than"),
    ],
)
def test_what_is_no_glob_fails_the_evaluation(glob, problem):
    assert problem in evaluated("glob.match(input.g, [], input.t)", g=glob, t="a")


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ('lower("ADMİN")', "admin"),
        ('lower("\u0391\u03a3")', "\u03b1\u03c3"),
        ('upper("straße")', "STRAßE"),
        ('upper("ᾳ")', "ᾼ"),
        ('lower("Ab")', "ab"),
        ('to_number("12")', 12),
        ('to_number("-1.5e1")', -15),
        ("to_number(true)", 1),
        ("to_number(null)", 0),
        ("to_number(7)", 7),
        ('urlquery.decode("a+b%20c")', "a b c"),
        ('net.cidr_contains("10.0.0.0/8", "::ffff:10.1.2.3")', True),
        ('net.cidr_contains("::ffff:10.0.0.0/104", "10.1.2.3")', True),
        ('net.cidr_contains("10.0.0.0/8", "10.0.0.0/16")', True),
        ('net.cidr_contains("10.0.0.0/16", "10.0.0.0/8")', False),
        ('net.cidr_contains("10.0.0.5/8", "10.9.9.9")', True),
        ('net.cidr_contains("::/0", "10.1.2.3")', False),
    ],
)
def test_case_numbers_and_networks_are_those_of_opa(expression, value):
    assert evaluated(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        'regex.match("(", "a")',
        'regex.match("a", 1)',
        r'regex.match(`a\B`, "é")',
        'regex.find_n("a", "a", 1.5)',
        'glob.match("a", "/", "a")',
        'glob.match("a", ["ab"], "a")',
        "lower(1)",
        'to_number(" 1")',
        'to_number("٣")',
        'to_number("1e999")',
        'to_number("01")',
        "to_number([])",
        'urlquery.decode("%zz")',
        'net.cidr_contains("10.0.0.0/33", "10.0.0.1")',
        'net.cidr_contains("10.0.0.0", "10.0.0.1")',
        'net.cidr_contains("10.0.0.0/255.0.0.0", "10.0.0.1")',
        'net.cidr_contains("10.0.0.0/8", "010.0.0.1")',
        'net.cidr_contains("fe80::/10", "fe80::1%eth0")',
    ],
)
def test_what_opa_has_no_value_for_fails_the_evaluation(expression):
    assert "raises Python error" in evaluated(expression)


def test_patterns_that_are_put_together_take_bounded_memory_and_time():
    assert "is no regular expression" in evaluated("regex.match(input.p, input.t)", p="((a{100}){100}){100}", t="a")
    assert "longer than" in evaluated("regex.match(input.p, input.t)", p="a" * (MAX_PATTERN + 1), t="a")
    assert evaluated("regex.match(input.p, input.t)", p="(a|aa)+(a*)*b", t="a" * 50_000) is False


def test_a_function_that_would_read_patterns_in_another_way_is_refused():
    with pytest.raises(InvalidInputError, match=r"regex\.template_match is not available"):
        rewritten([("a.rego", 'package a\nx if regex.template_match("<a>", input.a, "<", ">")')], v0=False)
