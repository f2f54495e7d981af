"""Istio's match rules, field by field: what a rule grants, and what the same rule denies."""

import pytest

from app.authz.model import AuthzOptions, Matching
from tests.fakes.authz import allowed, connection, matches, policy, refuses, request

FRONT = "spiffe://cluster.local/ns/web/sa/front"


def source(field: str, *values: str) -> str:
    return f"{{from: [{{source: {{{field}: [{', '.join(repr(value) for value in values)}]}}}}]}}"


def operation(field: str, *values: str) -> str:
    return f"{{to: [{{operation: {{{field}: [{', '.join(repr(value) for value in values)}]}}}}]}}"


def when(key: str, *values: str, field: str = "values") -> str:
    return f"{{when: [{{key: '{key}', {field}: [{', '.join(repr(value) for value in values)}]}}]}}"


def both(rule: str, check) -> bool:
    """Whether the rule matches, where granting and denying agree."""
    granted, denied = matches(rule, check), refuses(rule, check)
    assert granted == denied
    return granted


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("cluster.local/ns/web/sa/front", True),
        ("cluster.local/ns/web/sa/fron", False),
        ("cluster.local/ns/web/*", True),
        ("cluster.local/ns/we*", True),
        ("*/sa/front", True),
        ("*/sa/fron", False),
        ("*", True),
        ("cluster.local/*/sa/front", False),
        ("Cluster.local/ns/web/sa/front", False),
        ("other.org/ns/web/sa/front", False),
    ],
)
def test_principals_match_exactly_by_prefix_by_suffix_or_by_presence(pattern, expected):
    assert both(source("principals", pattern), request()) is expected
    assert both(when("source.principal", pattern), request()) is expected
    assert both(source("notPrincipals", pattern), request()) is not expected


def test_a_peer_without_identity_has_no_principal_namespace_or_account():
    plaintext = request(source="")
    for field, value in [
        ("principals", "*"),
        ("namespaces", "*"),
        ("serviceAccounts", "front"),
        ("trustDomains", "*"),
    ]:
        assert not both(source(field, value), plaintext)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("notPrincipals", "cluster.local/ns/evil/sa/x"),
        ("notNamespaces", "evil"),
        ("notServiceAccounts", "evil/x"),
        ("notTrustDomains", "evil"),
    ],
)
def test_a_peer_without_identity_matches_negated_identities_in_deny_rules_only(field, value):
    assert refuses(source(field, value), request(source=""))
    assert not matches(source(field, value), request(source=""))


def test_a_peer_without_identity_is_granted_where_a_rule_is_about_such_peers():
    assert both(source("notPrincipals", "*"), request(source=""))
    assert not both(source("notPrincipals", "*"), request())


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("web", True), ("we", False), ("w*", True), ("*b", True), ("w*b", True), ("*", True), ("x*", False)],
)
def test_namespaces_match_anywhere_in_the_id_with_stars_in_the_middle(pattern, expected):
    assert both(source("namespaces", pattern), request()) is expected
    assert both(when("source.namespace", pattern), request()) is expected
    assert both(source("notNamespaces", pattern), request()) is not expected


def test_namespaces_of_ids_that_are_longer_than_istios_match_as_istios_expression_does():
    check = request(source="spiffe://td/cell/1/ns/web/sa/front/v/2")
    assert both(source("namespaces", "web"), check)
    assert not both(source("namespaces", "1"), check)
    assert not both(source("namespaces", "web"), request(source="spiffe://td/ns/web"))


@pytest.mark.parametrize(
    ("account", "spiffe_id", "expected"),
    [
        ("web/front", FRONT, True),
        ("front", FRONT, False),
        ("front", "spiffe://td/ns/shop/sa/front", True),
        ("web/front", "spiffe://td/ns/web/sa/frontend", False),
        ("web/front", "spiffe://td/ns/web/cell/1/sa/front/x", True),
        ("web/front", "spiffe://td/sa/front/ns/web/x", False),
    ],
)
def test_service_accounts_take_the_policys_namespace_and_match_whole_segments(account, spiffe_id, expected):
    assert both(source("serviceAccounts", account), request(source=spiffe_id)) is expected
    assert both(when("source.serviceAccount", account), request(source=spiffe_id)) is expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("cluster.local", True), ("cluster", False), ("cluster.*", True), ("*l", True), ("*", True)],
)
def test_trust_domains_match_as_a_whole(pattern, expected):
    assert both(source("trustDomains", pattern), request()) is expected
    assert both(when("source.trustDomain", pattern), request()) is expected


@pytest.mark.parametrize(
    ("block", "address", "expected"),
    [
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.4", False),
        ("10.0.0.0/8", "10.255.0.1", True),
        ("10.0.0.1/8", "10.255.0.1", True),
        ("0.0.0.0/0", "203.0.113.9", True),
        ("0.0.0.0/0", "2001:db8::1", False),
        ("2001:db8::/32", "2001:db8:1::1", True),
        ("::ffff:10.0.0.0/104", "::ffff:10.1.1.1", True),
    ],
)
def test_addresses_match_by_block(block, address, expected):
    assert both(source("ipBlocks", block), request(source_ip=address)) is expected
    assert both(source("notIpBlocks", block), request(source_ip=address)) is not expected
    assert both(when("source.ip", block), request(source_ip=address)) is expected
    assert both(when("destination.ip", block), request(destination_ip=address)) is expected


@pytest.mark.parametrize(("block", "address"), [("10.0.0.0/8", "::ffff:10.1.1.1"), ("::ffff:10.0.0.0/104", "10.1.1.1")])
def test_an_address_that_is_mapped_into_ipv6_is_another_one_and_denied_as_the_same(block, address):
    check = request(source_ip=address, destination_ip=address)
    for field, key in (("ipBlocks", "source.ip"), ("remoteIpBlocks", "remote.ip"), (None, "destination.ip")):
        rules = [when(key, block), *([source(field, block)] if field else [])]
        for rule in rules:
            assert not matches(rule, check)
            assert refuses(rule, check)
        assert not matches(when(key, block, field="notValues"), check)
        assert refuses(when(key, block, field="notValues"), check)
    assert not refuses(source("ipBlocks", "::/0"), request(source_ip="10.1.1.1"))


def test_the_client_may_be_the_peer_or_whom_the_last_proxy_saw():
    blocks = source("remoteIpBlocks", "203.0.113.0/24")
    for forwarded, peer, granted, denied in (
        ("203.0.113.9", "10.0.0.1", False, True),
        ("203.0.113.9", "203.0.113.7", True, True),
        ("203.0.113.9, 198.51.100.7", "10.0.0.1", False, False),
        ("198.51.100.7", "203.0.113.9", False, True),
        ("garbage", "203.0.113.9", False, True),
        ("", "10.0.0.1", False, True),
    ):
        check = request(source_ip=peer, headers={"x-forwarded-for": (forwarded,)})
        assert (matches(blocks, check), refuses(blocks, check)) == (granted, denied), forwarded
        negated = source("notRemoteIpBlocks", "203.0.113.0/24")
        assert (matches(negated, check), refuses(negated, check)) == (not denied, not granted), forwarded
    assert both(blocks, request(source_ip="203.0.113.9"))
    assert not both(blocks, request(source_ip="10.0.0.1"))


def test_the_remote_address_is_not_the_connections():
    check = request(source_ip="10.0.0.1", remote_ip="203.0.113.9")
    assert both(source("remoteIpBlocks", "203.0.113.0/24"), check)
    assert not both(source("ipBlocks", "203.0.113.0/24"), check)
    assert both(when("remote.ip", "203.0.113.9"), check)


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("/admin", "/admin", True),
        ("/admin", "/admin?x=1", True),
        ("/admin", "/adminx", False),
        ("/admin*", "/admin/x", True),
        ("/admin*", "/admin", True),
        ("/admin/*", "/admin", False),
        ("*.js", "/a/b.js", True),
        ("*.js", "/a/b.jsx", False),
        ("*", "/", True),
        ("/a/*/c", "/a/b/c", False),
        ("/a/*/c", "/a/*/c", True),
        ("*a*", "/xa*", True),
        ("*a*", "/xab", False),
    ],
)
def test_paths_match_without_their_query(pattern, path, expected):
    assert both(operation("paths", pattern), request(path)) is expected
    assert both(operation("notPaths", pattern), request(path)) is not expected


@pytest.mark.parametrize(
    ("pattern", "path", "grants", "hits"),
    [
        ("/admin", "/Admin", False, True),
        ("/admin/*", "/ADMIN/x", False, True),
        ("/Admin/*", "/aDmin/x", False, True),
        ("/Admin/*", "/admin/x", False, True),
        ("*.php", "/a.PHP", False, True),
        ("/a/{*}/Edit", "/A/x/edit", False, True),
        ("/shop.Cart/Get", "/shop.Cart/Get", True, True),
        ("/a/*", "/a/B", True, True),
        ("/a", "/B", False, False),
        ("/a", "/%41", False, True),
    ],
)
def test_servers_may_ignore_the_case_of_a_path(pattern, path, grants, hits):
    assert matches(operation("paths", pattern), request(path)) is grants
    assert refuses(operation("paths", pattern), request(path)) is hits
    assert matches(operation("notPaths", pattern), request(path)) is not hits


@pytest.mark.parametrize(
    ("template", "path", "expected"),
    [
        ("/a/{*}/c", "/a/b/c", True),
        ("/a/{*}/c", "/a/b/b/c", False),
        ("/a/{*}/c", "/a/c", False),
        ("/a/{**}", "/a/b/c", True),
        ("/a/{**}", "/a/", True),
        ("/a/{**}", "/a", False),
        ("/{*}/x/{**}/y", "/1/x/2/3/y", True),
        ("/a.b/{*}", "/aXb/c", False),
        ("/store/{**}/cart", "/store/cart", False),
    ],
)
def test_path_templates_match_segments(template, path, expected):
    assert matches(operation("paths", template), request(path)) is expected


def test_an_empty_segment_fills_an_operator_for_many_where_one_reading_is_asked_for():
    text = policy("{rules: [{to: [{operation: {paths: ['/store/{**}/cart']}}]}]}")
    assert allowed(text, request("/store//cart"), AuthzOptions(matching=Matching.ISTIO))
    assert not allowed(text, request("/store//cart"))


@pytest.mark.parametrize(
    ("pattern", "expected"), [("GET", True), ("G*", True), ("*T", True), ("*", True), ("POST", False)]
)
def test_methods_match(pattern, expected):
    assert both(operation("methods", pattern), request()) is expected
    assert both(operation("notMethods", pattern), request()) is not expected


@pytest.mark.parametrize(
    ("pattern", "host", "expected"),
    [
        ("shop.example.org", "SHOP.example.ORG", True),
        ("Shop.Example.Org", "shop.example.org", True),
        ("shop.example.org.", "shop.example.org.", True),
        ("shop.example.org:*", "shop.example.org:8080", True),
        ("*.example.org", "shop.example.org", True),
        ("*.example.org", "example.org", False),
        ("shop.*", "shop.example.org", True),
        ("*", "shop.example.org", True),
        ("shop.example.org", "shop.example.org.evil.org", False),
        ("[::1]:80", "[::1]:80", True),
    ],
)
def test_hosts_match_without_case(pattern, host, expected):
    assert both(operation("hosts", pattern), request(host=host)) is expected


def test_a_host_with_a_port_is_granted_only_as_written_and_denied_also_without():
    check = request(host="shop.example.org:8080")
    assert not matches(operation("hosts", "shop.example.org"), check)
    assert refuses(operation("hosts", "shop.example.org"), check)
    assert not matches(operation("notHosts", "shop.example.org"), check)
    assert refuses(operation("notHosts", "shop.example.org"), check)


@pytest.mark.parametrize(
    ("pattern", "host"),
    [
        ("shop.example.org", "shop.example.org."),
        ("shop.example.org", "shop.example.org.:80"),
        ("shop.example.org.", "shop.example.org"),
        ("shop.example.org.", "shop.example.org:80"),
        ("*.example.org", "shop.example.org."),
        ("*.example.org.", "shop.example.org"),
        ("shop.example.org:80", "shop.example.org.:80"),
    ],
)
def test_a_host_with_a_dot_at_its_end_is_granted_only_as_written_and_denied_also_without(pattern, host):
    for field in ("hosts", "notHosts"):
        assert not matches(operation(field, pattern), request(host=host))
        assert refuses(operation(field, pattern), request(host=host))


@pytest.mark.parametrize("pattern", ["shop.*", "*."])
def test_a_dot_in_a_pattern_that_ends_no_name_is_not_cut(pattern):
    assert not refuses(operation("hosts", pattern), request(host="shopping.org"))


def test_ports_match():
    assert both(operation("ports", "80", "8080"), request(port=8080))
    assert not both(operation("ports", "80"), request(port=8080))
    assert both(operation("notPorts", "80"), request(port=8080))
    assert both(when("destination.port", "8080"), request(port=8080))


@pytest.mark.parametrize("field", ["values", "notValues"])
@pytest.mark.parametrize(
    ("pattern", "sni"),
    [
        ("a.example.org", "A.example.org"),
        ("*.example.org", "a.EXAMPLE.org"),
        ("a.*", "A.example.org"),
        ("A.example.org", "a.example.org"),
        ("A.example.org", "A.example.org"),
        ("a.example.org", "a.example.org."),
        ("a.example.org", "A.EXAMPLE.ORG."),
    ],
)
def test_a_server_name_is_denied_in_any_case_and_granted_only_in_lower_case_as_written(pattern, sni, field):
    assert refuses(when("connection.sni", pattern, field=field), request(sni=sni))
    assert not matches(when("connection.sni", pattern, field=field), request(sni=sni))


def test_the_server_name_is_matched():
    assert both(when("connection.sni", "a.example.org"), request(sni="a.example.org"))
    assert not both(when("connection.sni", "b.example.org"), request(sni="A.example.org"))
    assert both(when("connection.sni", "*.example.org"), request(sni="a.example.org"))


@pytest.mark.parametrize(
    ("pattern", "values", "expected"),
    [
        ("v1", ("v1",), True),
        ("v1", ("V1",), False),
        ("v*", ("v1",), True),
        ("*1", ("v1",), True),
        ("*", ("",), True),
        ("*", None, False),
        ("v1", None, False),
        ("a,b", ("a,b",), True),
        ("v*", ("",), False),
    ],
)
def test_headers_match_with_the_case_of_the_value_and_without_that_of_the_name(pattern, values, expected):
    check = request(headers={} if values is None else {"x-version": values})
    assert both(when("request.headers[X-Version]", pattern), check) is expected
    assert both(when("request.headers[x-version]", pattern, field="notValues"), check) is not expected


def test_a_repeated_header_is_granted_if_every_value_matches_and_denied_if_one_does():
    for values in [("user", "admin"), ("user,admin",), ("user, admin",), ("admin", "user")]:
        check = request(headers={"x-role": values})
        assert not matches(when("request.headers[x-role]", "admin"), check)
        assert refuses(when("request.headers[x-role]", "admin"), check)
        assert not matches(when("request.headers[x-role]", "admin", field="notValues"), check)


@pytest.mark.parametrize(
    "rule",
    [
        source("principals", "*"),
        source("notPrincipals", "x"),
        source("ipBlocks", "0.0.0.0/0"),
        source("notIpBlocks", "192.0.2.1"),
        source("remoteIpBlocks", "0.0.0.0/0"),
        operation("ports", "80"),
        operation("notPorts", "80"),
        operation("hosts", "a"),
        operation("notHosts", "a"),
        when("connection.sni", "a"),
        when("connection.sni", "a", field="notValues"),
        when("destination.ip", "10.0.0.0/8"),
    ],
)
def test_a_missing_attribute_is_never_granted_and_always_denied(rule):
    missing = request(source=None, source_ip=None, destination_ip=None, port=None, host="")
    assert not matches(rule, missing)
    assert refuses(rule, missing)


def test_values_are_alternatives_fields_and_conditions_add_up_and_items_are_alternatives():
    rule = """{from: [{source: {namespaces: [web], ipBlocks: [10.0.0.0/8]}}, {source: {namespaces: [batch]}}],
               to: [{operation: {methods: [GET, HEAD], paths: [/a, /b]}}],
               when: [{key: 'request.headers[x-v]', values: ['1']}, {key: destination.port, values: ['8080']}]}"""
    headers: dict[str, tuple[str, ...]] = {"x-v": ("1",)}
    assert both(rule, request("/a", headers=headers))
    assert both(rule, request("/b", method="HEAD", headers=headers, source="spiffe://td/ns/batch/sa/x"))
    assert not both(rule, request("/c", headers=headers))
    assert not both(rule, request("/a", method="PUT", headers=headers))
    assert not both(rule, request("/a"))
    assert not both(rule, request("/a", headers=headers, port=80))
    assert not both(rule, request("/a", headers=headers, source_ip="192.0.2.1"))


def test_values_and_not_values_of_one_field_both_hold():
    rule = "{to: [{operation: {paths: ['/a*'], notPaths: ['/a/secret*']}}]}"
    assert both(rule, request("/a/b"))
    assert not both(rule, request("/a/secret/1"))


@pytest.mark.parametrize(
    ("principal", "source_id", "expected"),
    [
        ("cluster.local/ns/web/sa/front", "spiffe://example.org/ns/web/sa/front", True),
        ("cluster.local/ns/web/sa/front", "spiffe://old.example.org/ns/web/sa/front", True),
        ("old.example.org/ns/web/sa/front", "spiffe://example.org/ns/web/sa/front", True),
        ("example.org/ns/web/sa/front", "spiffe://cluster.local/ns/web/sa/front", False),
        ("other.org/ns/web/sa/front", "spiffe://example.org/ns/web/sa/front", False),
        ("cluster.local/ns/web/*", "spiffe://example.org/ns/web/sa/front", False),
        ("*old.example.org/ns/web/sa/front", "spiffe://example.org/ns/web/sa/front", True),
        ("old*/ns/web/sa/front", "spiffe://old.example.org/ns/web/sa/front", True),
        ("old*/ns/web/sa/front", "spiffe://example.org/ns/web/sa/front", True),
        ("old*/ns/web/sa/front", "spiffe://older.org/ns/web/sa/front", False),
        ("oth*/ns/web/sa/front", "spiffe://other.org/ns/web/sa/front", False),
        ("*old.example.org/ns/web/sa/front", "spiffe://x.old.example.org/ns/web/sa/front", True),
    ],
)
def test_a_local_trust_domain_stands_for_its_aliases_in_principals_of_five_segments(principal, source_id, expected):
    options = AuthzOptions(
        trust_domain="example.org", trust_domain_aliases=("old.example.org",), matching=Matching.STRICT
    )
    for rule in (source("principals", principal), when("source.principal", principal)):
        assert allowed(policy(f"{{rules: [{rule}]}}"), request(source=source_id), options) is expected
        assert allowed(policy(f"{{action: DENY, rules: [{rule}]}}"), request(source=source_id), options) is not expected


@pytest.mark.parametrize(
    "rule",
    [
        "{to: [{operation: {methods: [GET]}}]}",
        "{to: [{operation: {notPaths: [/admin]}}]}",
        "{to: [{operation: {hosts: ['*']}}]}",
        "{to: [{operation: {paths: [/a]}}, {operation: {ports: ['8080']}}]}",
        "{when: [{key: 'request.headers[x-role]', notValues: [admin]}]}",
        "{when: [{key: 'request.headers[:authority]', notValues: [a]}]}",
        "{when: [{key: 'request.headers[:method]', notValues: [PUT]}]}",
    ],
)
def test_a_rule_about_http_grants_no_connection_and_denies_by_the_rest_of_it(rule):
    assert not matches(rule, connection())
    assert refuses(rule, connection())
    other_peer = rule[:-1] + ", from: [{source: {principals: [other/ns/a/sa/b]}}]}"
    assert not refuses(other_peer, connection())


def test_a_port_narrows_the_denial_of_connections():
    rule = "{to: [{operation: {paths: [/admin], ports: ['9090']}}]}"
    assert refuses(rule, connection(port=9090))
    assert not refuses(rule, connection(port=8080))


def test_a_connection_is_matched_by_what_it_has():
    rule = """{from: [{source: {principals: [cluster.local/ns/web/sa/front], remoteIpBlocks: [10.1.0.0/16]}}],
               to: [{operation: {ports: ['8080']}}],
               when: [{key: connection.sni, values: [db.example.org]}, {key: destination.ip, values: [10.9.9.9]}]}"""
    assert matches(rule, connection(sni="db.example.org"))
    assert not matches(rule, connection(sni="other"))
    assert not matches(rule, connection(sni="db.example.org", port=1))
    assert not matches(rule, connection(sni="db.example.org", source=""))
    assert matches("{}", connection())


def when_header(name, value, field="values"):
    return f"{{when: [{{key: 'request.headers[{name}]', {field}: ['{value}']}}]}}"


@pytest.mark.parametrize("name", [":authority", "Host"])
def test_the_authority_is_compared_as_it_was_sent_where_that_grants(name):
    rule = when_header(name, "shop.example.org")
    assert matches(rule, request(host="shop.example.org"))
    for other in ("Shop.example.org", "shop.example.org:80", "shop.example.org.", "other"):
        assert not matches(rule, request(host=other))


@pytest.mark.parametrize("name", [":authority", "host"])
def test_the_authority_is_compared_as_a_server_reads_it_where_that_denies(name):
    rule = when_header(name, "Shop.example.org")
    for same in ("Shop.example.org", "shop.EXAMPLE.org", "shop.example.org:80", "shop.example.org."):
        assert refuses(rule, request(host=same))
        assert not matches(when_header(name, "Shop.example.org", "notValues"), request(host=same))
    assert not refuses(rule, request(host="other"))
    assert matches(when_header(name, "Shop.example.org", "notValues"), request(host="other"))


def test_the_pseudo_header_of_the_path_has_the_query_and_other_readings():
    assert matches(when_header(":path", "/a?b=1"), request("/a?b=1"))
    assert not matches(when_header(":path", "/a"), request("/a?b=1"))
    assert not matches(when_header(":path", "/a*"), request("/a/..;/secret"))
    assert refuses(when_header(":path", "/secret"), request("/secret?x"))
    assert refuses(when_header(":path", "/secret"), request("/a/..;/secret"))
    assert not refuses(when_header(":path", "/secret"), request("/public"))
    assert not matches(when_header(":path", "/secret", "notValues"), request("/a/..;/secret"))


def test_the_pseudo_header_of_the_method_is_also_the_one_that_a_header_names():
    override = request(method="GET", headers={"x-http-method-override": ("DELETE",)})
    assert matches(when_header(":method", "GET"), request(method="GET"))
    assert not matches(when_header(":method", "GET"), override)
    assert refuses(when_header(":method", "DELETE"), override)


def test_the_pseudo_header_of_the_scheme_is_compared():
    assert matches(when_header(":scheme", "https"), request())
    assert not refuses(when_header(":scheme", "http"), request())


@pytest.mark.parametrize("field", ["values", "notValues"])
def test_a_pseudo_header_that_a_check_lacks_never_grants_and_always_denies(field):
    rule = when_header(":protocol", "websocket", field)
    assert not matches(rule, request())
    assert refuses(rule, request())


def test_a_method_in_lower_case_is_no_request_s_and_denies_the_one_in_upper_case():
    rule = "{to: [{operation: {methods: [delete]}}]}"
    assert not matches(rule, request(method="DELETE"))
    assert refuses(rule, request(method="DELETE"))
    assert not matches("{to: [{operation: {notMethods: [delete]}}]}", request(method="DELETE"))
