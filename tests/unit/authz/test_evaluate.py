"""The order of the actions, the policies that apply to a workload, and what is reported."""

from functools import partial

import pytest

from app.authz.model import AuthzOptions, Cause, UnknownWorkload, Workload
from app.authz.rules import index as index_module
from app.authz.rules.candidates import ALLOW, DENY
from tests.fakes.authz import SHOP, allowed, compiled_of, engine_of, policy, request, verdict, workload

ALLOW_ALL = "{rules: [{}]}"
DENY_ALL = "{action: DENY, rules: [{}]}"
GET = "{rules: [{to: [{operation: {methods: [GET]}}]}]}"


def test_no_policy_allows():
    found = verdict("", request())
    assert (found.decision.allowed, found.cause) == (True, Cause.NO_POLICY)


def test_an_allow_policy_that_matches_allows_and_names_the_rule():
    found = verdict(policy("{rules: [{to: [{operation: {methods: [PUT]}}]}, {}]}"), request())
    assert found.decision.allowed
    assert (found.decision.policy, found.decision.rule, found.cause) == ("shop/p", "rules[1]", Cause.POLICY)


def test_with_an_allow_policy_what_does_not_match_is_denied():
    found = verdict(policy(GET), request(method="PUT"))
    assert not found.decision.allowed
    assert (found.decision.policy, found.cause) == ("", Cause.NO_MATCH)


def test_a_policy_without_rules_denies_everything():
    assert verdict(policy("{}"), request()).cause is Cause.NO_MATCH
    assert verdict(policy("{rules: []}"), request()).cause is Cause.NO_MATCH


def test_deny_comes_before_allow():
    found = verdict(policy(ALLOW_ALL, name="a") + policy(DENY_ALL, name="z"), request())
    assert not found.decision.allowed
    assert (found.decision.policy, found.decision.rule) == ("shop/z", "rules[0]")


def test_the_first_rule_by_policy_name_is_reported_however_the_rules_are_found():
    text = "".join(
        policy(f"{{action: DENY, rules: [{rule}]}}", name=name)
        for name, rule in [
            ("d", "{}"),
            ("c", "{to: [{operation: {paths: ['/a*']}}]}"),
            ("b", "{from: [{source: {principals: [cluster.local/ns/web/sa/front]}}]}"),
            ("a", "{to: [{operation: {hosts: [shop.example.org]}}]}"),
        ]
    )
    assert verdict(text, request("/a")).decision.policy == "shop/a"
    assert verdict(text, request("/a", host="x")).decision.policy == "shop/b"
    assert verdict(text, request("/a", host="x", source="")).decision.policy == "shop/c"
    assert verdict(text, request("/b", host="x", source="")).decision.policy == "shop/d"


def test_a_policy_applies_to_its_namespace_only_and_one_of_the_root_namespace_to_all():
    assert not allowed(policy(DENY_ALL, namespace="shop"), request())
    assert allowed(policy(DENY_ALL, namespace="other"), request())
    assert not allowed(policy(DENY_ALL, namespace="istio-system"), request())
    assert allowed(policy(DENY_ALL, namespace="istio-system"), request(), AuthzOptions(root_namespace="mesh"))


def test_a_selector_takes_workloads_whose_labels_include_it():
    text = policy("{selector: {matchLabels: {app: shop, v: '1'}}, action: DENY, rules: [{}]}")
    assert not allowed(text, request(workload=workload("shop", app="shop", v="1", x="y")))
    assert allowed(text, request(workload=workload("shop", app="shop")))
    assert allowed(text, request(workload=workload("shop", app="shop", v="2")))
    assert allowed(text, request(workload=workload("shop")))


def test_a_selector_of_a_root_policy_selects_in_every_namespace():
    text = policy("{selector: {matchLabels: {app: shop}}, action: DENY, rules: [{}]}", namespace="istio-system")
    assert not allowed(text, request(workload=workload("anywhere", app="shop")))
    assert allowed(text, request(workload=workload("anywhere", app="x")))


GATEWAY = "{group: gateway.networking.k8s.io, kind: Gateway, name: edge}"
GATEWAY_NAME = "gateway.networking.k8s.io/gateway-name"


def deny_for(*targets: str, namespace: str = "shop") -> str:
    return policy(f"{{targetRefs: [{', '.join(targets)}], action: DENY, rules: [{{}}]}}", namespace=namespace)


@pytest.mark.parametrize(
    ("target", "label"),
    [
        (GATEWAY, GATEWAY_NAME),
        ("{kind: Service, name: edge}", "meshward.io/service"),
        ("{group: networking.istio.io, kind: ServiceEntry, name: edge}", "meshward.io/service-entry"),
    ],
)
def test_a_target_takes_the_workloads_of_its_namespace_that_are_labelled_with_it(target, label):
    assert not allowed(deny_for(target), request(workload=workload("shop", **{label: "edge", "x": "y"})))
    assert allowed(deny_for(target), request(workload=workload("shop", **{label: "other"})))
    assert allowed(deny_for(target), request(workload=workload("shop")))
    assert allowed(deny_for(target), request(workload=workload("other", **{label: "edge"})))
    root = deny_for(target, namespace="istio-system")
    assert allowed(root, request(workload=workload("shop", **{label: "edge"})))
    assert not allowed(root, request(workload=workload("istio-system", **{label: "edge"})))
    unlabelled = verdict(deny_for(target), request(workload=Workload("shop", None)))
    assert unlabelled.cause is Cause.UNKNOWN_WORKLOAD


def test_a_class_of_gateways_is_one_of_every_namespace_in_a_root_policy():
    target = "{group: gateway.networking.k8s.io, kind: GatewayClass, name: edge}"
    labelled = {"gateway.networking.k8s.io/gateway-class-name": "edge"}
    assert not allowed(deny_for(target, namespace="istio-system"), request(workload=workload("shop", **labelled)))
    assert allowed(deny_for(target, namespace="other"), request(workload=workload("shop", **labelled)))


def test_one_of_several_targets_is_enough_and_they_go_with_their_policy():
    engine = engine_of(deny_for(GATEWAY, "{kind: Service, name: cart}"))
    either = [workload("shop", **{GATEWAY_NAME: "edge"}), workload("shop", **{"meshward.io/service": "cart"})]
    both = workload("shop", **{GATEWAY_NAME: "edge", "meshward.io/service": "cart"})
    for found in (*either, both):
        assert not engine.evaluate(request(workload=found)).decision.allowed
    without = engine.changed(compiled_of(deny_for(GATEWAY, "{kind: Service, name: cart}")), [])
    for found in (*either, both):
        assert without.evaluate(request(workload=found)).cause is Cause.NO_POLICY


def test_an_unknown_workload_is_denied_with_that_reason():
    found = verdict("", request(workload=None))
    assert (found.decision.allowed, found.cause) == (False, Cause.UNKNOWN_WORKLOAD)
    assert "destination workload is missing" in found.decision.reason


def test_an_unknown_workload_gets_only_the_root_policies_where_configured():
    options = AuthzOptions(unknown_workload=UnknownWorkload.ROOT)
    assert allowed(policy(DENY_ALL), request(workload=None), options)
    assert not allowed(policy(DENY_ALL, namespace="istio-system"), request(workload=None), options)


@pytest.mark.parametrize("namespace", ["shop", "istio-system"])
def test_missing_labels_are_denied_where_policies_select_by_labels(namespace):
    text = policy("{selector: {matchLabels: {app: shop}}, action: DENY, rules: [{}]}", namespace=namespace)
    found = verdict(text, request(workload=Workload("shop", None)))
    assert (found.decision.allowed, found.cause) == (False, Cause.UNKNOWN_WORKLOAD)


def test_missing_labels_do_not_matter_where_no_policy_selects_by_labels():
    assert allowed(policy(ALLOW_ALL), request(workload=Workload("shop", None)))


def test_the_memory_for_workloads_is_bounded(monkeypatch):
    monkeypatch.setattr(index_module, "MAX_WORKLOADS", 3)
    engine = engine_of(policy("{selector: {matchLabels: {app: bad}}, action: DENY, rules: [{}]}"))
    for number in range(20):
        check = request(workload=workload("shop", app=f"a{number}"))
        assert engine.evaluate(check).decision.allowed
    assert not engine.evaluate(request(workload=workload("shop", app="bad"))).decision.allowed
    assert sum(len(scope.made) for scope in engine.index._scopes.values()) <= 3


def candidates(engine, role, asked):
    """The policies whose rules of a role are evaluated."""
    shortlist = engine.index.shortlist(SHOP, asked)
    found = shortlist.rules.candidates.of(asked, shortlist.found)
    return [rule.verdict.decision.policy for each, rules in found if each == role for rule in rules]


def test_a_check_tries_only_the_rules_that_its_request_can_match():
    text = "".join(
        policy(f"{{rules: [{{to: [{{operation: {{paths: ['/p{number}', '/q{number}/*']}}}}]}}]}}", name=f"p{number}")
        for number in range(200)
    )
    assert candidates(engine_of(text), ALLOW, request("/q7/x")) == ["shop/p7"]
    assert candidates(engine_of(text), ALLOW, request("/other")) == []


def test_rules_with_a_template_or_a_host_with_any_port_are_evaluated_only_for_requests_that_begin_as_they_do():
    template = policy("{rules: [{to: [{operation: {paths: ['/tenants/7/{*}/items']}}]}]}", "template")
    host = policy("{rules: [{to: [{operation: {hosts: ['a.example.org:*']}}]}]}", "host")
    deny = policy("{action: DENY, rules: [{to: [{operation: {hosts: ['a.example.org:*']}}]}]}", "deny")
    found = partial(candidates, engine_of(template + host + deny))
    assert found(ALLOW, request("/tenants/7/x/items", host="b.example.org")) == ["shop/template"]
    assert found(ALLOW, request("/tenants/8/x/items", host="b.example.org")) == []
    assert found(ALLOW, request("/", host="a.example.org:8080")) == ["shop/host"]
    assert found(DENY, request("/", host="a.example.org.:8080")) == ["shop/deny"]
    assert found(DENY, request("/", host="b.example.org:8080")) == []


def test_the_rule_that_is_first_by_name_decides_whatever_it_is_found_by():
    text = policy("{rules: [{to: [{operation: {paths: ['/a']}}]}]}", "c-by-path")
    text += policy("{rules: [{to: [{operation: {methods: [GET]}}]}]}", "b-by-nothing")
    text += policy("{rules: [{to: [{operation: {hosts: [shop.example.org]}}]}]}", "a-by-host")
    asked = request("/a", host="shop.example.org")
    texts = text, text.replace("a-by-host", "x-by-host"), text.replace("b-by-nothing", "x-by-nothing")
    assert [verdict(each, asked).decision.policy for each in texts] == [
        "shop/a-by-host",
        "shop/b-by-nothing",
        "shop/a-by-host",
    ]


@pytest.mark.parametrize(
    ("rule", "allowed", "denied"),
    [
        ("{to: [{operation: {methods: [GET]}}]}", {"method": "GET"}, {"method": "POST"}),
        ("{to: [{operation: {hosts: [a.org]}}]}", {"host": "a.org"}, {"host": "b.org"}),
        ("{from: [{source: {namespaces: [web]}}]}", {}, {"source": "spiffe://cluster.local/ns/other/sa/front"}),
        ("{from: [{source: {principals: ['*']}}]}", {}, {"source": ""}),
        ("{from: [{source: {notNamespaces: [web]}}]}", {"source": "spiffe://cluster.local/ns/other/sa/a"}, {}),
        ("{}", {}, {"workload": workload("shop", app="cart")}),
        ("{}", {}, {"workload": workload("web", app="shop")}),
    ],
)
def test_requests_that_differ_in_one_part_do_not_share_what_is_kept(rule, allowed, denied):
    everywhere = policy("{rules: [{to: [{operation: {paths: [/none]}}]}]}", "none", "istio-system")
    text = policy(f"{{selector: {{matchLabels: {{app: shop}}}}, rules: [{rule}]}}") + everywhere
    asked = [(request(**allowed), True), (request(**denied), False)]
    for order in (asked, asked[::-1]):
        engine = engine_of(text)
        for check, passes in order * 2:
            assert engine.evaluate(check).decision.allowed is passes


def test_prefixes_of_every_length_are_found():
    prefixes = ["/a", "/b/", "/b/c", "/long/prefix/"]
    text = "".join(
        policy(f"{{action: DENY, rules: [{{to: [{{operation: {{paths: ['{prefix}*']}}}}]}}]}}", name=f"p{number}")
        for number, prefix in enumerate(prefixes)
    )
    for number, prefix in enumerate(prefixes):
        expected = 1 if prefix == "/b/c" else number
        assert verdict(text, request(f"{prefix}x")).decision.policy == f"shop/p{expected}"
    assert allowed(text, request("/long/prefix"))
