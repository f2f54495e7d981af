"""Rego that is refused, because regorus would decide otherwise than OPA does."""

import pytest

from app.authz.backends.rego_engine import Loaded, check_data, rewritten
from app.authz.backends.rego_wire import TRUE, UNDEFINED
from app.core.errors import InvalidInputError


def loaded(body, v0=False):
    return rewritten([("a.rego", f"package a.b\n{body}\n")], v0=v0)


def evaluated(body, given="{}", v0=False):
    engine = Loaded(loaded(body, v0), "{}", "data.a.b.x", v0=v0)
    reply = engine.reply(given.encode())
    engine.close()
    return reply


# In OPA none of them has a value where the object has another key as well.
@pytest.mark.parametrize(
    "body",
    [
        'x if { {"role": r} := input.user; r == "admin" }',
        'x if { {"role": r} = input.user; r == "admin" }',
        'x if { input.user = {"role": r}; r == "admin" }',
        'x if { input.user = {"role": _} }',
        'x if { input.user = {"role": r}; r = "admin" }',
        'x if { u := input.user; u = {"role": r}; r == "admin" }',
        'x if { [{"role": r}] := [input.user]; r == "admin" }',
        'x if { some {"role": r} in input.users; r == "admin" }',
        'x if { some {"role": "admin"} in input.users }',
        'x if { some _, {"role": "admin"} in input.users }',
        'x if f(input.user)\nf({"role": "admin"}) if true',
        'x if f(input.user)\nf({"role": r}) := r',
        'x if f([input.user])\nf([{"role": r}]) := r',
        'x if s[{"role": r}]\ns contains input.user',
        'x if every r in ["admin"] { input.user = {"role": r} }',
        'x if { count([r | some r in input.roles]) == 1; {"role": r} = input.user }',
    ],
)
def test_an_object_as_a_pattern_is_refused(body):
    with pytest.raises(InvalidInputError, match=r"a\.rego: line [23]: an object as a pattern is not supported"):
        loaded(body)


@pytest.mark.parametrize(
    "body",
    [
        'x if { r := "admin"; {"role": r} = input.user }',
        'x if { some r in ["admin"]; input.user = {"role": r} }',
        'x if { role = "admin"; input.user = {"role": role} }',
        'x if { input.user = {"role": input.user.role} }',
        'x if input.user == {"role": "admin"}',
        'x if f("admin")\nf(r) if input.user = {"role": r}',
        'x if s[{"role": r}]\ns contains input.user\nr := "admin"',
        'x if { [r] := [input.user.role]; r == "admin" }',
        'x if { u = {"role": input.user.role}; u == input.user }',
    ],
)
def test_an_object_whose_variables_have_values_is_compared_whole(body):
    assert evaluated(body, '{"user": {"role": "admin"}}') == TRUE
    if "s contains" not in body and "[r]" not in body:
        assert evaluated(body, '{"user": {"role": "admin", "more": 1}}') == UNDEFINED


def test_an_object_that_is_made_is_no_pattern():
    loaded('x = d if { h = input.h; d = {"allowed": true, "headers": h} }')
    loaded('x := {"a": y | some y in input.l}')


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ('{"a": {"b": {"x": true}}}', "data.a.b.x"),
        ('{"a": {"b": {"x": null}}}', "data.a.b.x"),
        ('{"a": {"b": {"x": {"y": 1}}}}', "data.a.b.x"),
        ('{"a": {"b": {"s": [1]}}}', "data.a.b.s"),
        ('{"a": {"b": {"m": {"n": 1}}}}', "data.a.b.m.n"),
        ('{"a": {"b": {"f": 1}}}', "data.a.b.f"),
        ('{"a": {"b": 1}}', "data.a.b.x"),
        ('{"a": []}', "data.a.b.x"),
    ],
)
def test_data_at_the_place_of_a_rule_is_refused(data, place):
    modules = loaded("default x := false\nx if input.y\ns contains 1\nm.n := 2\nf(y) if y")
    with pytest.raises(InvalidInputError, match=rf"a\.rego: the data has something at {place}, which is a rule here"):
        check_data(modules, data, v0=False)


def test_data_beside_the_rules_is_taken():
    modules = loaded("x if data.a.b.y")
    check_data(modules, '{"a": {"b": {"y": true}, "x": 1}, "x": 2}', v0=False)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ("x { any([false, true]) }", TRUE),
        ("x { any({false}) }", UNDEFINED),
        ("x { all([true, 1]) }", UNDEFINED),
        ("x { all([]) }", TRUE),
        ('x { re_match("^a+$", "aa") }', TRUE),
        ('x { net.cidr_overlap("10.0.0.0/8", "10.1.2.3") }', TRUE),
    ],
)
def test_functions_that_rego_had_before_its_version_1(body, value):
    assert evaluated(body, v0=True) == value
    with pytest.raises(InvalidInputError, match="is not available"):
        loaded(body.replace("x {", "x if {"))
