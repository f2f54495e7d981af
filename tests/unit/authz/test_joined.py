"""Headers whose values a check has joined with commas, as over HTTP."""

import pytest

from app.authz.model import AuthzOptions, Joined, Matching
from app.authz.rules.nodes import MAX_JOINED_ELEMENTS
from tests.fakes.authz import allowed, policy, request


def passes(action, field, pattern, text, matching):
    condition = f"{{key: 'request.headers[x-role]', {field}: ['{pattern}']}}"
    check = request(headers={"x-role": Joined((text,))})
    return allowed(
        policy(f"{{action: {action}, rules: [{{when: [{condition}]}}]}}"), check, AuthzOptions(matching=matching)
    )


@pytest.mark.parametrize(
    ("action", "field", "pattern", "text", "strict", "istio"),
    [
        ("ALLOW", "values", "user", "user", True, True),
        ("ALLOW", "values", "user*", "user,admin", False, True),  # Envoy looks for one that matches
        ("ALLOW", "values", "a,b", "a,b", False, False),  # they may be `a` and `b`
        ("ALLOW", "values", "a, b", "a, b", False, True),  # no value begins with a space
        ("ALLOW", "notValues", "admin", "user,admin", False, False),
        ("DENY", "values", "admin", "user,admin", False, False),
        ("DENY", "values", "b,c", "a,b,c", False, False),  # they may be `a` and `b,c`
        ("DENY", "values", "root", "user,admin", True, True),
        ("DENY", "notValues", "application/*", "application//xx,", False, True),
        ("DENY", "notValues", "user*", "user,user2", True, True),
    ],
)
def test_values_may_be_parted_at_any_comma(action, field, pattern, text, strict, istio):
    assert passes(action, field, pattern, text, Matching.STRICT) is strict
    assert passes(action, field, pattern, text, Matching.ISTIO) is istio


@pytest.mark.parametrize("matching", Matching)
def test_of_too_many_elements_no_match_is_certain_and_any_is_possible(matching):
    for count, certain in ((MAX_JOINED_ELEMENTS, True), (MAX_JOINED_ELEMENTS + 1, False)):
        text = ",".join(["a"] * count)
        assert passes("ALLOW", "values", "a*", text, matching) is certain
        assert passes("DENY", "values", "b*", text, matching) is certain
