"""What is known of Rego policies from their text: what they read, what they cost, whether they change their mind."""

import json
import time

import pytest

from app.authz.backends.rego_cost import MAX_SEPARATOR, MAX_STEPS
from app.authz.backends.rego_engine import Loaded, rewritten
from app.authz.backends.rego_known import MAX_BYTES, known_json, read_known
from app.authz.rules.parts import EVERYTHING, parts_of, selected

HTTP = "input.attributes.request.http"


def known(body, data="{}", more=()):
    modules = [("p", f"package envoy.authz\nimport {HTTP} as h\n{body}\n"), *more]
    return read_known(known_json(rewritten(modules, v0=False), data, v0=False))


def paths(parts, before=()):
    if parts is EVERYTHING:
        return {".".join(before)}
    return {found for name, inside in parts.items() for found in paths(inside, (*before, name))}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("allow if input.attributes.source.principal", {"attributes.source.principal"}),
        ('allow if h.method == "GET"', {"attributes.request.http.method"}),
        ('allow if h.headers["x-a"]', {"attributes.request.http.headers.x-a"}),
        ("allow if h.headers[input.parsed_path[0]]", {"attributes.request.http.headers", "parsed_path"}),
        ("allow if input.parsed_path[_] == data.a[input.version.encoding]", {"parsed_path", "version.encoding"}),
        ("allow if { some name, value in h.headers; name == value }", {"attributes.request.http.headers"}),
        ("allow if { p := input.parsed_body; p.x == 1 }", {"parsed_body"}),
        ('allow if { {"a": 1}[input.parsed_path[0]] }', {"parsed_path"}),
        ("allow if not startswith(h.path, h.host)", {"attributes.request.http.path", "attributes.request.http.host"}),
        ("f(x) if x == 1\nallow if f(input.version)", {"version"}),
        ('allow := {"allowed": true, "body": input.attributes.source.principal}', {"attributes.source.principal"}),
        ("allow if h.method\nother if h", {"attributes.request.http"}),
        ("allow if input", {""}),
        ('allow if object.get(input, "a", 1) == 1', {""}),
        ('allow if data.envoy.authz.b with input as {"a": 1}\nb if input.a', {""}),
        ("allow if true", set()),
    ],
)
def test_the_parts_of_the_input_that_policies_read(body, expected):
    assert paths(known(body).parts) == expected


def test_a_part_that_is_read_whole_is_not_read_in_part():
    assert paths(parts_of([("a", "b"), ("a",), ("a", "b", "c"), ("d", "e")])) == {"a", "d.e"}
    assert parts_of([("a",), ()]) is EVERYTHING
    value = {"a": {"b": 1, "c": [2]}, "d": "x", "e": None}
    assert selected(value, parts_of([("a", "c"), ("d", "f"), ("z",)])) == {"a": {"c": [2]}, "d": "x"}
    assert selected(value, EVERYTHING) == value


# Each is evaluated here, in at most so many steps for a request of twenty elements.
@pytest.mark.parametrize(
    ("body", "steps"),
    [
        ('default allow := false\nallow if h.method == "GET"', 20),
        ('allow if { not startswith(h.path, "/a"); h.method in {"GET", "HEAD"} }', 200),
        ("allow if { some r in data.roles; r == h.method }", 200),
        ("allow if data.roles[input.attributes.source.principal].admin", 50),
        ("allow if { who := h.headers.who; data.roles[who] }", 50),
        ('allow if { ["a", "b"][_] == h.method }', 50),
        ("allow if every p in input.parsed_path { p != h.host }", 300),
        ("allow if count([x | some x in input.parsed_path; x != h.host]) == 0", 400),
        ("f(x) if startswith(x, h.path)\nf(x) if x == h.host\nallow if { some p in input.parsed_path; f(p) }", 700),
        ('allow := {"allowed": true, "headers": {"x": sprintf("%s-%s", [h.method, h.host])}}', 120),
        ("allow if { some a in data.x; some b in data.y; a == b }", 5000),
        ("allow if regex.match(`^/a/[0-9]+$`, h.path)", 120),
        ('allow if strings.any_prefix_match(h.path, ["/a", "/b"])', 50),
        ('allow if trim(concat(", ", [h.path, h.host]), " /") == "a"', 50),
        ("allow if numbers.range(h.path)\nnumbers.range(x) if x == h.host", 50),
        ('allow if count(deny) == 0\ndeny contains m if { h.method != "GET"; m := concat(" ", [h.path, "no"]) }', 80),
    ],
)
def test_what_ends_soon_is_evaluated_here(body, steps):
    cost = known(body).cost
    assert cost is not None
    text = b"," * 19
    fixed, one, two = cost.steps
    assert 0 < fixed + one * 20 + two * 400 <= steps
    assert cost.fits(text)


@pytest.mark.parametrize(
    "body",
    [
        "allow if { some i in numbers.range(1, 100000); i == -1 }",
        "allow if { walk(input, [p, v]); v == 1 }",
        "allow if input.x with input as {}",
        "allow if regex.match(h.path, h.host)",
        "allow if regex.match(`(a{100}){100}`, h.host)",
        'allow if sprintf("%1000000000d", [1])',
        'allow if { parts := split(h.path, "/"); some p in parts; p == "a" }',
        "allow if { some a in s; a == 1 }\ns contains x if some x in input.parsed_path",
        "allow if data[x]",
        "allow if data.envoy[x]",
        "allow if { some a in input.x; some b in input.x; some c in input.x; a == b; b == c }",
        "allow if { some a in input.x; f(a) }\nf(x) if { input.x[_]; g(x) }\ng(x) if { some c in input.x; c == x }",
        "f(x) if f(x)\nallow if f(1)",
        "f(x) if g(x)\ng(x) if f(x)\nallow if f(1)",
        "allow if { x := h.size * h.size; x > 1 }",
        "\n".join(
            ["a0 := h.body", *(f'a{n} := concat("", [a{n - 1}, a{n - 1}])' for n in range(1, 30)), "allow if a29"]
        ),
        "\n".join(["a0 := h.body", *(f"a{n} := [a{n - 1}, a{n - 1}]" for n in range(1, 30)), "allow if a29"]),
        'f(x) := concat("", [x, x])\nallow if f(f(f(f(f(f(h.body))))))',
        "allow if {\n" + "h.method\n" * MAX_STEPS + "}",
        "allow if sort([h.body]) == []",
        "allow if strings.any_prefix_match(input.parsed_path, input.parsed_query.a)",
        'allow if strings.any_suffix_match(h.path, ["/a", h.host])',
        "allow if trim(h.path, h.host) == h.host",
        "allow if trim_left(h.path, h.host) == h.host",
        "allow if trim_right(h.path, h.host) == h.host",
        "allow if indexof(h.path, h.host) == 1",
        'allow if concat(h.host, input.parsed_path) == ""',
        f'allow if concat("{"x" * (MAX_SEPARATOR + 1)}", input.parsed_path) == ""',
        # A function of the same name is another one.
        "allow if numbers.range(1, h.size)\nrange(a, b) if a == b",
    ],
)
def test_what_may_take_long_or_is_not_known_is_not_evaluated_here(body):
    cost = known(body).cost
    assert cost is None or not cost.fits(b"x")


def test_functions_of_another_module_grow_what_they_are_given():
    other = ("q", 'package lib\ndouble(x) := concat("", [x, x])\n')
    call = "h.body"
    for _ in range(6):
        call = f"lib.double({call})"
    assert known(f"import data.lib\nallow if {call}", more=[other]).cost is None


def test_a_request_or_data_with_too_many_elements_is_not_evaluated_here():
    cost = known("allow if { some a in input.parsed_path; some b in input.parsed_path; a == b }").cost
    assert cost.fits(b"," * 10)
    assert not cost.fits(b"," * 100)
    assert not known("allow if { some a in data.x; some b in data.x; a == b }", json.dumps([0] * 100)).cost.fits(b"x")
    assert not known("allow if contains(h.body, h.path)").cost.fits(b"x" * (8 << 20))
    assert known("allow if contains(h.body, h.path)").cost.fits(b"x" * (64 << 10))
    assert not known("allow if json.unmarshal(h.body) == 1").cost.fits(b"x" * (64 << 10))
    # To parse it alone takes the loop some ten milliseconds.
    assert not known("allow if true").cost.fits(b"x" * (256 << 10))


def test_large_policies_are_not_looked_at():
    found = known("allow if h.method\n# " + "x" * MAX_BYTES)
    assert (found.parts, found.cost, found.pure) == (EVERYTHING, None, False)


def test_the_worst_that_is_evaluated_here_ends_soon():
    policy = "allow if { some a in input.x; some b in input.x; startswith(a, b); a != b }"
    loaded, cost = known(policy), None
    cost = loaded.cost
    number = next(n for n in range(1000, 1, -1) if cost.fits(b"," * n))
    text = json.dumps({"x": ["a" * 30] * number}).encode()
    engine = Loaded(loaded.modules, "{}", "data.envoy.authz.allow", v0=False)
    before = time.process_time()
    engine.reply(text)
    # A hundred times what it takes, so that it is the bound that is seen, and not the machine.
    assert time.process_time() - before < 1.0
    engine.close()


@pytest.mark.parametrize(
    ("body", "pure"),
    [
        ("allow if h.method", True),
        ("allow if time.now_ns() > 1", False),
        ("allow if rand.intn(h.method, 2) == 1", False),
        ("allow if time.clock(1)[0] == 1", True),
    ],
)
def test_whether_a_decision_may_be_another_one_later(body, pure):
    assert known(body).pure is pure
