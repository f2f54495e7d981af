"""Compiled rules are data: they can be printed, compared and read without the policy that they come from."""

import pytest

from app.authz.model import Attribute, AuthzOptions, Matching
from app.authz.rules.compile import compile_policy
from app.authz.rules.nodes import And, HeaderMatch, Match, Or, describe
from app.authz.rules.parse import POLICY_KIND
from app.documents.parser import parse_documents
from tests.fakes.authz import policy, request


def compiled(rule: str, action: str = "ALLOW", options: AuthzOptions | None = None):
    (found,) = POLICY_KIND.parse(parse_documents(policy(f"{{action: {action}, rules: [{rule}]}}").encode()))
    return compile_policy(found, options or AuthzOptions(matching=Matching.STRICT)).rules[0]


RULE = """{from: [{source: {namespaces: [web, 'b*']}}, {source: {serviceAccounts: [cron]}}],
           to: [{operation: {methods: [GET, HEAD], paths: ['/b', '/a*', '*.js', '/x/{*}']}}],
           when: [{key: 'request.headers[X-V]', values: ['1', '2*']}, {key: destination.port, notValues: ['80']}]}"""


@pytest.mark.parametrize(
    ("rule", "parts"),
    [
        ("{}", ["any request"]),
        (
            RULE,
            [
                "request.method in [GET, HEAD]",
                "request.path in [/b, /a*, *.js, /x/{*}]",
                "(source.namespace in [web, b*] or source.serviceAccount in [shop/cron])",
                "every value of request.headers[x-v] in [1, 2*]",
                "destination.port not in [80]",
            ],
        ),
        (
            "{from: [{source: {notPrincipals: [a/ns/b/sa/c], ipBlocks: [10.0.0.0/8], trustDomains: [a]}}]}",
            [
                "source.principal in [*]",
                "source.principal not in [a/ns/b/sa/c]",
                "source.trustDomain in [a]",
                "source.ip in [10.0.0.0/8]",
            ],
        ),
        (
            "{to: [{operation: {hosts: [h]}}, {operation: {ports: ['80']}}]}",
            ["(request.host in [h] or destination.port in [80])", "over HTTP"],
        ),
    ],
)
def test_a_rule_that_grants_prints_as_one_line(rule, parts):
    assert describe(compiled(rule).node) == " and ".join(parts)


@pytest.mark.parametrize(
    ("rule", "parts"),
    [
        (
            "{to: [{operation: {paths: [/a, '/{*}'], notHosts: [i], hosts: [h]}}]}",
            [
                "request.path in [/a, /a/, /{*}, /{*}/] (or missing)",
                "request.host in [h] with any port (or missing)",
                "request.host not in [i] (or missing)",
            ],
        ),
        (
            "{when: [{key: 'request.headers[x]', values: ['a']}, {key: 'request.headers[y]', notValues: ['*']}]}",
            [
                "one value of request.headers[x] in [a] (or not forwarded)",
                "not (request.headers[y] is present) (or not forwarded)",
            ],
        ),
        ("{from: [{source: {notPrincipals: [a]}}]}", ["source.principal not in [a] (or missing)"]),
    ],
)
def test_a_rule_that_refuses_prints_what_it_matches_besides(rule, parts):
    assert describe(compiled(rule, "DENY").node) == " and ".join(parts)


def test_a_rule_that_is_matched_as_istio_does_prints_the_policys_own_values():
    options = AuthzOptions(matching=Matching.ISTIO)
    rule = "{to: [{operation: {paths: [/a], hosts: [h]}}], when: [{key: 'request.headers[x]', values: [a]}]}"
    parts = "request.path in [/a]", "request.host in [h]", "request.headers[x] in [a]"
    for action, if_missing in (
        ("ALLOW", ("", "", "")),
        ("DENY", (" (or missing)", " (or missing)", " (or not forwarded)")),
    ):
        printed = describe(compiled(rule, action, options).node)
        assert printed == " and ".join(map("".join, zip(parts, if_missing, strict=True)))
    plaintext = compiled("{from: [{source: {notPrincipals: [a]}}]}", "ALLOW", options).node
    assert describe(plaintext) == "source.principal not in [a]"


def test_a_rule_compiles_to_the_same_data_each_time():
    assert compiled(RULE) == compiled(RULE)
    assert len({compiled(RULE).node, compiled(RULE).node}) == 1
    assert compiled(RULE) != compiled(RULE.replace("/b", "/c"))
    assert compiled(RULE).node != compiled(RULE, "DENY").node


def test_a_principal_of_the_local_trust_domain_is_compiled_for_each_of_its_names():
    options = AuthzOptions(trust_domain="example.org", trust_domain_aliases=("old.org",))
    node = compiled("{from: [{source: {principals: [cluster.local/ns/a/sa/b]}}]}", options=options).node
    assert describe(node) == "source.principal in [example.org/ns/a/sa/b, old.org/ns/a/sa/b]"


def test_the_result_for_a_missing_attribute_is_part_of_the_node():
    values = frozenset({"GET"})
    for if_missing in (True, False):
        for negated in (True, False):
            node = Match(Attribute.SNI, values, negated, if_missing)
            assert node.holds(request(sni=None)) is if_missing


def test_nodes_combine():
    get, post = (Match(Attribute.METHOD, frozenset({method})) for method in ("GET", "POST"))
    check = request()
    assert And(()).holds(check)
    assert not Or(()).holds(check)
    assert And((get, get)).holds(check)
    assert not And((get, post)).holds(check)
    assert Or((post, get)).holds(check)
    assert HeaderMatch("x", frozenset({"1"}), negated=True).holds(check)
