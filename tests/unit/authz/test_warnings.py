"""What the answer about a valid policy warns of."""

import pytest

from app.authz.rules import warnings as rules
from app.authz.rules.parse import POLICY_KIND
from app.documents.parser import parse_documents
from tests.fakes.authz import matches, policy, refuses, request

BY_MATCHING = "with authz.matching 'strict'"


def warnings_of(rule: str, action: str = "ALLOW") -> dict[str, str]:
    (found,) = POLICY_KIND.parse(parse_documents(policy(f"{{action: {action}, rules: [{rule}]}}").encode()))
    # The rule as a whole, and what depends on the kind of matching, is warned of below.
    return {
        warning.path: warning.problem
        for warning in found.warnings
        if warning.path != "spec.rules[0]" and not warning.problem.startswith(BY_MATCHING)
    }


def by_matching(rule: str, action: str) -> dict[str, str]:
    (found,) = POLICY_KIND.parse(parse_documents(policy(f"{{action: {action}, rules: [{rule}]}}").encode()))
    return {each.path: each.problem for each in found.warnings if each.problem.startswith(BY_MATCHING)}


def operation(field: str, *values: str) -> str:
    listed = ", ".join(f"'{value}'" for value in values)
    return f"{{to: [{{operation: {{{field}: [{listed}]}}}}]}}"


def when(key: str, value: str, field: str = "values") -> str:
    return f"{{when: [{{key: '{key}', {field}: ['{value}']}}]}}"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/a/../b", "makes '/b' of '/a/../b'"),
        ("/a/./b", "makes '/a/b' of"),
        ("/%61", "makes '/a' of"),
        ("/a\\b", "makes '/a/b' of"),
        ("/a/../b*", "makes '/bx' of"),
        ("*/../b", "makes '/b' of"),
        ("/{*}/../b", "makes '/b' of"),
        ("/a%zz", "denied anyway: the path has a malformed percent escape"),
        ("/a%00", "denied anyway"),
        ("/ä", "denied anyway"),
        ("/a/*/c", "write '{*}'"),
        ("*a*", "'*' stands for itself"),
    ],
)
def test_a_path_that_no_request_has_is_warned_of(path, text):
    for action in ("ALLOW", "DENY"):
        for field in ("paths", "notPaths"):
            ((place, problem),) = warnings_of(operation(field, "/ok", path), action).items()
            assert place == f"spec.rules[0].to[0].operation.{field}[1]"
            assert text in problem
    if "*" not in path and "%" not in path and "denied anyway" not in text:
        assert not matches(operation("paths", path), request(path))


@pytest.mark.parametrize("path", ["/a//b", "/a;x=1", "//*", "/a/..;/b"])
def test_a_path_that_a_server_may_read_otherwise_is_warned_of_where_it_grants(path):
    assert "a server may read" in warnings_of(operation("paths", path))["spec.rules[0].to[0].operation.paths[0]"]
    assert warnings_of(operation("paths", path), "DENY") == {}
    assert warnings_of(operation("notPaths", path)) == {}


@pytest.mark.parametrize(
    "path",
    ["/", "/a", "/a%2fb", "/a%2Fb/c*", "/caf%c3%a9", "*", "/*", "*.js", "/a%2*", "/.well-known/*", "/a/{*}/{**}"],
)
def test_an_ordinary_path_is_not_warned_of(path):
    for action in ("ALLOW", "DENY"):
        assert warnings_of(operation("paths", path), action) == {}


@pytest.mark.parametrize(
    ("rule", "place"),
    [
        (operation("hosts", "a", "shop.*.org"), "spec.rules[0].to[0].operation.hosts[1]"),
        (operation("notHosts", "shop..org:1:2"), "spec.rules[0].to[0].operation.notHosts[0]"),
        (operation("methods", "GET,POST"), "spec.rules[0].to[0].operation.methods[0]"),
        (operation("methods", "get"), "spec.rules[0].to[0].operation.methods[0]"),
        (operation("hosts", "http://a"), "spec.rules[0].to[0].operation.hosts[0]"),
        (operation("paths", "admin"), "spec.rules[0].to[0].operation.paths[0]"),
        (operation("paths", "/a?b=1"), "spec.rules[0].to[0].operation.paths[0]"),
        (operation("notPaths", "/a#b"), "spec.rules[0].to[0].operation.notPaths[0]"),
        ("{from: [{source: {principals: ['spiffe://td/ns/a']}}]}", "spec.rules[0].from[0].source.principals[0]"),
        (when("request.headers[:method]", "get"), "spec.rules[0].when[0].values[0]"),
        (when("request.headers[:protocol]", "websocket"), "spec.rules[0].when[0].key"),
        (operation("methods", "G*T"), "spec.rules[0].to[0].operation.methods[0]"),
        ("{from: [{source: {principals: ['A.org/ns/b']}}]}", "spec.rules[0].from[0].source.principals[0]"),
        ("{from: [{source: {notPrincipals: ['td/ns/*/sa/b']}}]}", "spec.rules[0].from[0].source.notPrincipals[0]"),
        ("{from: [{source: {trustDomains: ['A']}}]}", "spec.rules[0].from[0].source.trustDomains[0]"),
        (when("source.principal", "td//x"), "spec.rules[0].when[0].values[0]"),
        (when("connection.sni", "a.*.org"), "spec.rules[0].when[0].values[0]"),
        (when("request.headers[x-role]", " admin", "notValues"), "spec.rules[0].when[0].notValues[0]"),
        (when("request.headers[Transfer-Encoding]", "x"), "spec.rules[0].when[0].key"),
        (when("request.headers[X-Envoy-Internal]", "x"), "spec.rules[0].when[0].key"),
    ],
)
def test_a_value_that_no_request_has_is_warned_of_with_its_place(rule, place):
    for action in ("ALLOW", "DENY"):
        assert list(warnings_of(rule, action)) == [place]


def test_a_block_of_ipv4_addresses_written_as_ipv6_is_warned_of_where_it_grants():
    for key in ("source.ip", "remote.ip", "destination.ip"):
        rule = when(key, "::ffff:10.0.0.0/104")
        assert "write 10.0.0.0/8" in warnings_of(rule)["spec.rules[0].when[0].values[0]"]
        assert warnings_of(rule, "DENY") == {}
        assert warnings_of(when(key, "10.0.0.0/8")) == {}


def test_a_server_name_in_upper_case_is_warned_of_where_it_grants():
    rule = when("connection.sni", "Admin.example.org")
    assert list(warnings_of(rule)) == ["spec.rules[0].when[0].values[0]"]
    assert warnings_of(rule, "DENY") == {}
    assert not matches(rule, request(sni="Admin.example.org"))
    assert refuses(rule, request(sni="admin.example.org"))


def all_warnings_of(spec: str) -> dict[str, str]:
    (found,) = POLICY_KIND.parse(parse_documents(policy(spec).encode()))
    return {warning.path: warning.problem for warning in found.warnings}


@pytest.mark.parametrize(
    ("rule", "warned"),
    [
        ("{to: [{operation: {paths: [/a]}}]}", True),
        ("{from: [{source: {principals: [td/ns/a/sa/b]}}], to: [{operation: {methods: [GET]}}]}", True),
        ("{when: [{key: 'request.headers[a]', values: [b]}]}", True),
        ("{to: [{operation: {paths: [/a], ports: ['80']}}]}", False),
        ("{to: [{operation: {paths: [/a]}}], when: [{key: destination.port, values: ['80']}]}", False),
        ("{from: [{source: {requestPrincipals: ['*']}}]}", True),
        ("{from: [{source: {notRequestPrincipals: ['*']}}], to: [{operation: {ports: ['80']}}]}", False),
        ("{when: [{key: 'request.auth.claims[group]', values: [a]}]}", True),
        ("{from: [{source: {principals: [td/ns/a/sa/b]}}]}", False),
        ("{}", False),
    ],
)
def test_a_denial_that_holds_for_connections_for_want_of_a_port_is_warned_of(rule, warned):
    assert ("spec.rules[0]" in all_warnings_of(f"{{action: DENY, rules: [{rule}]}}")) is warned
    assert "spec.rules[0]" not in all_warnings_of(f"{{rules: [{rule}]}}")
    assert "spec.rules[0]" not in all_warnings_of(f"{{action: AUDIT, rules: [{rule}]}}")


@pytest.mark.parametrize("spec", ["{selector: {}}", "{selector: {matchLabels: {}}}"])
def test_a_selector_without_labels_is_warned_of(spec):
    assert list(all_warnings_of(spec)) == ["spec.selector"]


def test_a_target_that_no_check_tells_is_warned_of():
    service = "{kind: Service, name: a}"
    gateway = "{group: gateway.networking.k8s.io, kind: Gateway, name: a}"
    warned = all_warnings_of(f"{{targetRefs: [{gateway}, {service}]}}")
    assert list(warned) == ["spec.targetRefs[1]"]
    assert "meshward.io/service=a" in warned["spec.targetRefs[1]"]
    assert list(all_warnings_of(f"{{targetRef: {service}}}")) == ["spec.targetRef"]
    assert all_warnings_of(f"{{targetRef: {gateway}}}") == {}
    class_of = "{group: gateway.networking.k8s.io, kind: GatewayClass, name: a}"
    assert "root namespace" in all_warnings_of(f"{{targetRefs: [{class_of}]}}")["spec.targetRefs[0]"]


def test_an_ordinary_policy_has_no_warning():
    rule = """{from: [{source: {principals: ['td/ns/a/sa/b', '*/sa/b', 'td/*', '*'], trustDomains: ['a', '*.b'],
                                ipBlocks: [10.0.0.0/8, 'fd00::/8']}}],
               to: [{operation: {hosts: ['Shop.org', '*.org:8080', 'a:*', '[::1]:80'], methods: [GET, 'P*']}}],
               when: [{key: 'request.headers[a]', values: ['*/*', 'a b']}, {key: destination.port, values: ['80']}]}"""
    assert warnings_of(rule) == {}


def test_the_warnings_are_bounded(monkeypatch):
    monkeypatch.setattr(rules, "MAX_WARNINGS", 3)
    assert len(warnings_of(operation("paths", *[f"/a/../{number}" for number in range(9)]))) == 3


@pytest.mark.parametrize(
    ("rule", "denying", "allowing"),
    [
        (operation("paths", "/a"), True, False),
        (operation("notPaths", "/a"), False, True),
        (operation("paths", "/a*"), False, False),
        (operation("hosts", "h"), True, False),
        (operation("notHosts", "h"), False, True),
        (operation("hosts", "h*"), False, False),
        (operation("ports", "80"), False, False),
        (when("request.headers[x]", "a"), True, True),
        (when("request.headers[x]", "*"), False, False),
        (when("connection.sni", "h"), True, False),
        ("{from: [{source: {principals: [a]}}]}", False, False),
        ("{from: [{source: {notPrincipals: [td/ns/a/sa/b]}}]}", False, True),
        ("{from: [{source: {notNamespaces: [a]}}]}", False, True),
        ("{from: [{source: {notPrincipals: ['*']}}]}", False, False),
        (when("source.serviceAccount", "a/b", "notValues"), False, True),
        ("{from: [{source: {notRequestPrincipals: [a/b]}}]}", False, True),
        ("{from: [{source: {notRequestPrincipals: ['*']}}]}", False, False),
        (when("request.auth.audiences", "a", "notValues"), False, True),
        (when("request.auth.claims[a]", "a"), False, False),
    ],
)
def test_a_rule_that_the_kinds_of_matching_decide_differently_is_warned_of(rule, denying, allowing):
    assert bool(by_matching(rule, "DENY")) is denying
    assert bool(by_matching(rule, "ALLOW")) is allowing
