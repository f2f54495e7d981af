"""`not` in Rego, which OPA and regorus evaluate differently until it is rewritten."""

import json

import pytest
import regorus

from app.authz.backends.rego_rewrite import UnsupportedError, rewrite

HEAD = 'package t\nimport input.h as h\nf(x) if x == 1\nroles := "x" if h.x == "b"\ntab := {"a": 3}\n'


def parse(text):
    engine = regorus.Engine()
    engine.add_policy("p", text)
    (module,) = json.loads(engine.get_ast_as_json())
    return module["ast"]


def evaluated(body, given):
    engine = regorus.Engine()
    engine.add_policy("p", rewrite(f"{HEAD}a := true if {body}\n", parse))
    engine.set_input_json(json.dumps(given))
    return engine.eval_rule("data.t.a") is True


PRESENT = {"h": {"x": "b", "y": "c"}, "i": "a", "l": ["b"]}


# What OPA 1.22.4 decides with PRESENT, and with no input; regorus by itself has True in the last column for all.
@pytest.mark.parametrize(
    ("body", "present", "absent"),
    [
        ('not startswith(h.x, "a")', True, False),
        ('not startswith(h.x, "b")', False, False),
        ("not h.x > 3", False, False),
        ("not f(h.x)", True, False),
        ('not h.x in {"a"}', True, False),
        ('not h.x != "a"', False, False),
        ('not lower(h.x) == "a"', True, False),
        ('not object.get(h, "z", "") == "a"', True, False),
        ("not h.x < h.y", False, False),
        ('not concat("", [h.x, "a"]) == "b"', True, False),
        ("not [h.x] == [1]", True, False),
        ('not {"a": h.x} == {"a": 1}', True, False),
        ("{ not data.t.tab[input.i] == 4; true }", True, False),
        ("not data.t.tab[input.i]", False, False),
        ('{ not startswith(roles, "y") }', True, False),
        ('not (h.x > "a")', False, False),
        ('not endswith(\n  h.x, # why\n  "a",\n)', True, False),
        ("f(2) else := true if not f(h.x)", True, False),
        ('not startswith(input["h"]["x"], "é")', True, False),
        # These are not evaluated before, or always defined.
        ('not h.x == "a"', True, True),
        ("not h.x", False, True),
        ("not f(2)", True, True),
        ("not count([1 | h.x]) == 1", False, True),
        ("count([1 | some v in input.l; not startswith(v, h.x)]) == 0", True, True),
    ],
)
def test_not_is_evaluated_as_opa_does(body, present, absent):
    assert (evaluated(body, PRESENT), evaluated(body, {})) == (present, absent)


def test_not_with_another_input_is_evaluated_with_it():
    assert not evaluated('not f(input.b) with input as {"b": 1}', {})
    assert evaluated('not f(input.b) with input as {"b": 2}', {})
    assert not evaluated('not f(input.b) with input as {"c": 2}', {})


def test_a_module_without_not_is_left_as_it_is():
    assert rewrite(HEAD, parse) == HEAD


@pytest.mark.parametrize("call", ['http.send({"method": "get", "url": "http://a"})', "opa.runtime()"])
def test_a_function_without_a_result_is_refused(call):
    with pytest.raises(UnsupportedError, match=r"line 6: .* is not available"):
        rewrite(f"{HEAD}a if not {call}.x\n", parse)


def test_nesting_is_bounded():
    body = "h.x"
    for _ in range(12):
        body = f"count([1 | not f({body})])"
    with pytest.raises(UnsupportedError, match="nested"):
        rewrite(f"{HEAD}a if not f({body})\n", parse)
