"""Headers whose values a check has joined with commas: never more is allowed than if they were apart."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.authz.model import AuthzOptions, Joined, Matching
from tests.fakes.authz import allowed, policy, request

# What a header's value can be: it neither begins nor ends with a space.
values = st.lists(st.text("ab, ", max_size=4).map(str.strip), min_size=1, max_size=4)
patterns = st.lists(
    st.tuples(st.sampled_from(["{}", "{}*", "*{}"]), st.text("ab,", min_size=1, max_size=3)).map(
        lambda parts: parts[0].format(parts[1])
    ),
    min_size=1,
    max_size=3,
)


@pytest.mark.parametrize("matching", Matching)
@settings(max_examples=1000, deadline=None)
@given(patterns, st.sampled_from(["values", "notValues"]), st.sampled_from(["ALLOW", "DENY"]), values)
def test_joined_values_are_allowed_only_if_they_are_apart(matching, found, field, action, sent):
    text = policy(f"{{action: {action}, rules: [{{when: [{{key: 'request.headers[x-role]', {field}: {found}}}]}}]}}")
    options = AuthzOptions(matching=matching)
    apart = allowed(text, request(headers={"x-role": tuple(sent)}), options)
    joined = allowed(text, request(headers={"x-role": Joined((",".join(sent),))}), options)
    assert apart or not joined
