"""Rules about a request's token, and about what filters of the proxy found."""

from dataclasses import replace

import pytest

from app.authz.model import Matching
from app.authz.rules.claims import RequestPrincipalMatch
from app.authz.rules.compile import compile_policy, describe_policy
from app.authz.rules.parse import POLICY_KIND
from app.documents.parser import parse_documents
from tests.fakes.authz import DEFAULTS, engine_of, policy, request

CLAIMS = {
    "iss": "https://issuer.example.org",
    "sub": "alice",
    "aud": ["api", "shop"],
    "azp": "app",
    "level": 3,
    "scope": ["read", "write"],
    "realm": {"roles": ["admin", 7], "name": "main"},
    "empty": "",
}


def allowed(rule, claims=CLAIMS, action="ALLOW", matching=DEFAULTS.matching, **changed):
    sent = replace(request(), claims=claims, **changed)
    engine = engine_of(policy(f"{{action: {action}, rules: [{rule}]}}"), replace(DEFAULTS, matching=matching))
    return engine.evaluate(sent).decision.allowed


def source(field, *values):
    return f"{{from: [{{source: {{{field}: {list(values)}}}}}]}}"


def when(key, *values, field="values"):
    return f"{{when: [{{key: '{key}', {field}: {list(values)}}}]}}"


@pytest.mark.parametrize(
    ("value", "matches"),
    [
        ("https://issuer.example.org/alice", True),
        ("https://issuer.example.org/bob", False),
        ("https://other.example.org/alice", False),
        ("*", True),
        ("https://issuer.example.org/*", True),
        ("https://issuer.example.org/al*", True),
        ("*/alice", True),
        ("*.example.org/alice", True),
        ("*.example.org/bob", False),
        ("*ice", True),
        ("https*", True),
        ("*bob", False),
        ("alice", False),
        ("https://issuer.example.org", False),
    ],
)
def test_a_request_principal_is_issuer_and_subject(value, matches):
    assert allowed(source("requestPrincipals", value)) is matches
    assert allowed(when("request.auth.principal", value)) is matches
    assert allowed(source("notRequestPrincipals", value), action="DENY") is matches


@pytest.mark.parametrize("claims", [{}, {"iss": "a"}, {"sub": "b"}, {"iss": "", "sub": ""}, {"iss": ["a"], "sub": "b"}])
def test_a_request_without_issuer_and_subject_matches_no_principal(claims):
    assert not allowed(source("requestPrincipals", "*"), claims)
    assert not allowed(source("notRequestPrincipals", "*"), claims, action="DENY")


@pytest.mark.parametrize(
    ("key", "value", "matches"),
    [
        ("request.auth.audiences", "shop", True),
        ("request.auth.audiences", "sh*", True),
        ("request.auth.audiences", "other", False),
        ("request.auth.presenter", "app", True),
        ("request.auth.presenter", "*", True),
        ("request.auth.claims[sub]", "alice", True),
        ("request.auth.claims[scope]", "write", True),
        ("request.auth.claims[scope]", "read write", False),
        ("request.auth.claims[realm][roles]", "admin", True),
        ("request.auth.claims[realm][roles]", "7", False),
        ("request.auth.claims[realm][name]", "*ain", True),
        ("request.auth.claims[realm]", "*", False),
        ("request.auth.claims[realm][name][x]", "*", False),
        ("request.auth.claims[level]", "3", False),
        ("request.auth.claims[empty]", "*", False),
        ("request.auth.claims[none]", "*", False),
    ],
)
def test_a_claim_is_text_or_a_list_with_a_text(key, value, matches):
    assert allowed(when(key, value)) is matches
    assert allowed(when(key, value, field="notValues")) is not matches


RULES = [source("requestPrincipals", "*"), when("request.auth.claims[a]", "x"), when("request.auth.audiences", "x")]


@pytest.mark.parametrize("rule", RULES)
def test_where_it_is_not_known_whether_there_is_a_token_nothing_is_granted_and_everything_denied(rule):
    assert not allowed(rule, claims=None)
    assert not allowed(rule.replace("values", "notValues").replace("requestP", "notRequestP"), claims=None)
    assert not allowed(rule, claims=None, action="DENY")


def test_a_rule_for_connections_is_dropped_with_a_source_that_is_about_tokens():
    rule = "{from: [{source: {requestPrincipals: ['*']}}, {source: {principals: ['*']}}]}"
    assert allowed(rule)
    assert not allowed(rule, claims=None, is_tcp=True)
    assert not allowed(rule, claims=None, is_tcp=True, action="DENY")


@pytest.mark.parametrize(
    "rule",
    [
        source("notRequestPrincipals", "a/mallory"),
        when("request.auth.principal", "a/mallory", field="notValues"),
        when("request.auth.claims[sub]", "mallory", field="notValues"),
        when("request.auth.audiences", "mallory", field="notValues"),
    ],
)
def test_a_request_without_a_token_is_not_one_with_another_token_where_matching_is_strict(rule):
    assert allowed(rule, {}, matching=Matching.ISTIO)
    assert allowed(rule, matching=Matching.STRICT)
    assert not allowed(rule, {}, matching=Matching.STRICT)
    assert not allowed(rule, {}, "DENY", Matching.STRICT)
    without = rule.replace("a/mallory", "*").replace("mallory", "*")
    assert allowed(without, {}, matching=Matching.STRICT)


FOUND = {"envoy.filters.http.a": {"k": "value", "list": ["one", "two"]}}


@pytest.mark.parametrize(
    ("key", "value", "matches"),
    [
        ("k", "value", True),
        ("k", "val*", True),
        ("k", "[value]", False),
        ("list", "[one]", True),
        ("list", "[t*]", True),
        ("list", "[[one]]", True),
        ("list", "[[o]ne]", False),
        ("list", "one", False),
        ("none", "*", False),
    ],
)
def test_metadata_of_a_filter_is_text_or_a_list(key, value, matches):
    rule = when(f"experimental.envoy.filters.http.a[{key}]", value)
    assert allowed(rule, metadata=FOUND) is matches
    assert allowed(rule, metadata=FOUND, action="DENY") is not matches


def test_metadata_that_is_not_declared_is_missing():
    rule = when("experimental.envoy.filters.http.b[k]", "value")
    assert not allowed(rule, metadata=FOUND)
    assert not allowed(rule, metadata=FOUND, action="DENY")
    assert not allowed(when("experimental.envoy.filters.http.b[k]", "x", field="notValues"), metadata=FOUND)


def test_a_custom_policy_cannot_be_about_tokens():
    for rule in RULES:
        with pytest.raises(Exception, match="not supported with CUSTOM"):
            POLICY_KIND.parse(
                parse_documents(policy(f"{{action: CUSTOM, provider: {{name: p}}, rules: [{rule}]}}").encode())
            )


def test_rules_about_tokens_are_described():
    rules = ", ".join([*RULES, when("experimental.envoy.filters.http.a[k]", "v", "[w]")])
    (parsed,) = POLICY_KIND.parse(parse_documents(policy(f"{{action: DENY, rules: [{rules}]}}").encode()))
    _, *lines = describe_policy(compile_policy(parsed, DEFAULTS), DEFAULTS)
    assert lines == [
        "rules[0]: request.auth.principal in [*/*] (or unknown)",
        "rules[1]: request.auth.claims[a] in [x] (or unknown)",
        "rules[2]: request.auth.claims[aud] in [x] (or unknown)",
        "rules[3]: experimental.envoy.filters.http.a[k] in [v, [w]] (or unknown)",
    ]
    assert not RequestPrincipalMatch(()).holds(request())
