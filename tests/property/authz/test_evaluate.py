"""The index decides as a walk over everything does, and the laws of ALLOW and DENY hold."""

from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import product

from hypothesis import event, given, settings
from hypothesis import strategies as st

from app.authz.identity import ANONYMOUS, Identity
from app.authz.model import (
    NO_CLAIMS,
    Action,
    Attribute,
    AuthorizationPolicy,
    AuthzOptions,
    CheckInput,
    Condition,
    Connection,
    Matching,
    Networks,
    Operation,
    Patterns,
    Ports,
    Rule,
    Source,
    Target,
    TargetKind,
    Workload,
)
from app.authz.rpc.peers import read_identity, read_name
from app.authz.rules.addresses import read_address
from app.authz.rules.compile import compile_policy, rule_node
from app.authz.rules.evaluate import NativeEngine
from app.authz.rules.nodes import describe, premise_of
from tests.fakes import istio_policy as istio
from tests.fakes import naive_policy as naive
from tests.fakes.authz import with_connection

OPTIONS = AuthzOptions(trust_domain="td", trust_domain_aliases=("old",), matching=Matching.STRICT)
AS_ISTIO = replace(OPTIONS, matching=Matching.ISTIO)


def lists(values):
    """No values, or one to three of them: few enough of each kind that they often meet."""
    return st.lists(st.sampled_from(values), max_size=3, unique=True).map(tuple)


def patterns(values):
    return st.builds(Patterns, lists(values), lists(values))


PRINCIPALS = ["td/ns/a/sa/x", "cluster.local/ns/a/sa/x", "old/ns/b/sa/y", "other/ns/a/sa/x", "td/ns/*", "*/sa/x", "*"]
IDS = ["spiffe://td/ns/a/sa/x", "spiffe://old/ns/b/sa/y", "spiffe://other/ns/a/sa/x", "spiffe://td/c/1/ns/a/n/sa/x/2"]
NAMESPACES = ["a", "b", "*", "a*", "*b", "c"]
ACCOUNTS = ["a/x", "b/y", "b/x"]
DOMAINS = ["td", "old", "*", "o*", "*d"]
HOSTS = ["h", "h:80", "h:*", "*.org", "*", "x.org", "h.", "*.org."]
PATHS = ["/", "/a", "/a/", "/a*", "/a/*", "*.js", "*", "/{*}", "/a/{**}", "/{*}/b/{**}/c", "*/b"]
REQUEST_PATHS = ["/", "/a", "/a/", "/a/b", "/a/b.js", "/a/b/", "/x/b/c", "/x/b/1/2/c", "/b"]
METHODS = ["GET", "POST", "G*", "*", "*T", "get", "p*"]
VALUES = ["1", "1*", "*2", "*", "1,2"]
HEADER_VALUES = [("1",), ("2",), ("1", "2"), ("1,2",), ("1, 2",), ("",), ("12", "1")]
BLOCKS = [
    ip_network(text) for text in ("10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/0", "2001:db8::/32", "::ffff:10.0.0.0/104")
]
ADDRESSES = [ip_address(text) for text in ("10.1.2.3", "10.2.3.4", "192.0.2.1", "2001:db8::1", "::ffff:10.1.2.3")]
FORWARDED = [("10.1.2.3",), ("192.0.2.1", "10.2.3.4"), ("10.1.2.3, 192.0.2.1",)]

networks = st.builds(Networks, lists(BLOCKS), lists(BLOCKS))
ports = st.builds(Ports, lists([80, 443]), lists([80, 443]))
sources = st.builds(
    Source,
    patterns(PRINCIPALS),
    patterns(NAMESPACES) | st.just(Patterns()),
    patterns(ACCOUNTS) | st.just(Patterns()),
    patterns(DOMAINS) | st.just(Patterns()),
    networks | st.just(Networks()),
    networks | st.just(Networks()),
)
operations = st.builds(
    Operation, patterns(HOSTS) | st.just(Patterns()), patterns(METHODS) | st.just(Patterns()), patterns(PATHS), ports
)
addresses = st.builds(
    Condition, st.sampled_from([Attribute.SOURCE_IP, Attribute.REMOTE_IP, Attribute.DESTINATION_IP]), networks
)
server_names = st.builds(Condition, st.just(Attribute.SNI), patterns(["h", "*.org", "*", "X.org", "x*"]))
AUTHORITIES = ["h", "H", "h:80", "X.ORG", "x.org", "x.org:443", "x.org."]
TARGETS = ["/", "/a", "/a?b=1", "/a/b?c", "/x/b/c"]
pseudo_headers = st.one_of(
    st.builds(Condition, st.just(Attribute.HEADER), patterns([*AUTHORITIES, "x*", "*"]), st.just(":authority")),
    st.builds(Condition, st.just(Attribute.HEADER), patterns([*TARGETS, "/a*", "*b=1", "*"]), st.just(":path")),
    st.builds(Condition, st.just(Attribute.METHOD), patterns(METHODS)),
)
conditions = st.one_of(
    pseudo_headers,
    st.builds(Condition, st.just(Attribute.HEADER), patterns(VALUES), st.sampled_from(["x-a", "x-b"])),
    st.builds(Condition, st.just(Attribute.SOURCE_PRINCIPAL), patterns(PRINCIPALS)),
    st.builds(Condition, st.just(Attribute.SOURCE_NAMESPACE), patterns(NAMESPACES)),
    st.builds(Condition, st.just(Attribute.SOURCE_SERVICE_ACCOUNT), patterns(ACCOUNTS)),
    st.builds(Condition, st.just(Attribute.SOURCE_TRUST_DOMAIN), patterns(DOMAINS)),
    addresses,
    st.builds(Condition, st.just(Attribute.DESTINATION_PORT), ports),
    server_names,
)
rules = st.builds(
    Rule,
    st.lists(sources, max_size=2).map(tuple),
    st.lists(operations, max_size=2).map(tuple),
    st.lists(conditions, max_size=2).map(tuple),
)
targets = st.lists(st.builds(Target, st.sampled_from(TargetKind), st.sampled_from("xy")), max_size=2).map(tuple)
policies = st.builds(
    AuthorizationPolicy,
    st.sampled_from(["shop", "istio-system", "other"]),
    st.sampled_from("abcdef"),
    st.sampled_from([Action.ALLOW, Action.DENY]),
    st.sampled_from([(), (("app", "x"),), (("app", "x"), ("v", "1"))]),
    st.lists(rules, max_size=3).map(tuple),
    dry_run=st.sampled_from([False, False, False, True]),
    targets=st.just(()) | targets,
)
policy_sets = st.lists(policies, max_size=6, unique_by=lambda policy: policy.key)
labels = st.dictionaries(
    st.sampled_from(["app", "v", *(kind.value for kind in TargetKind)]), st.sampled_from(["x", "1"])
).map(lambda d: tuple(sorted(d.items())))
connections = st.builds(
    Connection,
    workload=st.builds(Workload, st.sampled_from(["shop", "other", "empty", "istio-system"]), labels),
    source=st.sampled_from([None, ANONYMOUS, *map(read_identity, IDS)]),
    source_ip=st.sampled_from([None, *ADDRESSES]),
    destination_ip=st.sampled_from([None, *ADDRESSES]),
    destination_port=st.sampled_from([None, 80, 443]),
    sni=st.sampled_from([None, "h", "x.org", "H", "X.org", "x.Org", "h."]),
)
read_requests = st.builds(
    CheckInput,
    connections,
    method=st.sampled_from(["GET", "POST"]),
    path=st.sampled_from([None, *REQUEST_PATHS]),
    host=st.sampled_from([None, "h", "h:80", "x.org", "x.org:443", "h.", "x.org.", "h.:80"]),
    headers=st.fixed_dictionaries(
        {},
        optional={
            "x-a": st.sampled_from(HEADER_VALUES),
            "x-b": st.sampled_from(HEADER_VALUES),
            "x-forwarded-for": st.sampled_from(FORWARDED),
        },
    ),
    claims=st.just(NO_CLAIMS),
    metadata=st.just(NO_CLAIMS),
    remote_ip=st.sampled_from([None, *ADDRESSES]),
)


def as_sent(check, query, *, upper, tcp):
    """The request with the pseudo-headers that it was read from, or a connection without all that HTTP has."""
    if tcp:
        return replace(check, is_tcp=True, method=None, path=None, host=None, headers={})
    sent = {":method": check.method}
    if check.host:
        sent[":authority"] = check.host.upper() if upper else check.host
    if check.path:
        sent[":path"] = check.path + query
    return replace(check, headers={**check.headers, **{name: (value,) for name, value in sent.items()}})


requests = st.builds(
    as_sent,
    read_requests,
    st.sampled_from(["", "?b=1"]),
    upper=st.booleans(),
    tcp=st.integers(0, 4).map(lambda n: n == 0),
)


def last_forwarded(check):
    """Whom the peer names last in x-forwarded-for, None if nobody."""
    return read_address(check.headers.get("x-forwarded-for", ("",))[-1].rpartition(",")[2].strip())


def engine_of(found, options=OPTIONS):
    return NativeEngine.of((compile_policy(policy, options) for policy in found), options)


def allows(found, check, options=OPTIONS):
    return engine_of(found, options).evaluate(check).decision.allowed


@settings(max_examples=120, deadline=None)
@given(policy_sets, st.lists(requests, min_size=1, max_size=8))
def test_the_index_agrees_with_a_walk_over_everything(found, checks):
    engine = engine_of(found)
    for check in checks:
        decision = engine.evaluate(check).decision
        assert decision.allowed == naive.decide(found, check, OPTIONS)
        assert {each.watch.value: each.result for each in decision.observed} == naive.observed(found, check, OPTIONS)


@settings(max_examples=80, deadline=None)
@given(st.lists(policy_sets, min_size=2, max_size=4), st.lists(requests, min_size=1, max_size=6))
def test_an_index_that_was_changed_decides_as_one_made_anew(sets, checks):
    """Also while checks are made between the changes, which remember what they found."""
    active = {policy.key: compile_policy(policy, OPTIONS) for policy in sets[0]}
    engine = engine_of(sets[0])
    for found in sets[1:]:
        for check in checks:
            engine.evaluate(check)
        wanted = {policy.key: compile_policy(policy, OPTIONS) for policy in found}
        removed = [each for key, each in active.items() if wanted.get(key) != each]
        engine = engine.changed(removed, [each for key, each in wanted.items() if active.get(key) != each])
        active = wanted
        for check in checks:
            assert engine.evaluate(check) == engine_of(found).evaluate(check)


@settings(max_examples=120, deadline=None)
@given(rules, st.sampled_from([Action.ALLOW, Action.DENY]), st.lists(requests, min_size=1, max_size=8))
def test_a_compiled_rule_holds_where_a_walk_over_the_rule_does(rule, action, checks):
    node = rule_node(rule, OPTIONS, grants=action is Action.ALLOW)
    assert node == rule_node(rule, OPTIONS, grants=action is Action.ALLOW)
    assert describe(node)
    for check in checks:
        assert node.holds(check) == naive.rule_matches(rule, check, action, OPTIONS), describe(node)


@settings(max_examples=120, deadline=None)
@given(rules, st.sampled_from([Action.ALLOW, Action.DENY]), requests)
def test_one_rule_agrees_with_a_walk_over_everything(rule, action, check):
    found = [AuthorizationPolicy("istio-system", "a", action, (), (rule,))]
    check = with_connection(check, workload=Workload("shop", ()))
    assert allows(found, check) == naive.decide(found, check, OPTIONS)


# Rules about one attribute, which requests meet far more often than rules about several.
simple_rules = st.one_of(
    st.builds(Rule, operations=st.tuples(st.builds(Operation, hosts=patterns(HOSTS)))),
    st.builds(Rule, operations=st.tuples(st.builds(Operation, paths=patterns(PATHS)))),
    st.builds(Rule, conditions=st.tuples(conditions)),
    st.builds(Rule, conditions=st.tuples(addresses)),
    st.builds(Rule, conditions=st.tuples(server_names)),
)
sets_or_one_simple_rule = st.one_of(
    policy_sets,
    st.builds(
        lambda action, rule: [AuthorizationPolicy("istio-system", "a", action, (), (rule,))],
        st.sampled_from([Action.ALLOW, Action.DENY]),
        simple_rules,
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(rules, simple_rules), st.sampled_from([Action.ALLOW, Action.DENY]), requests, requests)
def test_where_a_rule_holds_its_premise_does_for_every_request_of_the_same_peer_host_and_method(
    rule, action, check, other
):
    node = rule_node(rule, OPTIONS, grants=action is Action.ALLOW)
    premise = premise_of(node)
    can_hold = premise is None or premise.holds(check)
    alike = with_connection(replace(other, host=check.host, method=check.method), source=check.connection.source)
    assert can_hold or not node.holds(alike)
    event(f"can hold: {can_hold}")


@settings(max_examples=300, deadline=None)
@given(
    sets_or_one_simple_rule,
    st.lists(requests, min_size=1, max_size=16),
)
def test_what_istio_denies_under_any_reading_is_denied(found, checks):
    """Envoy may have the server name in lower case, and the client's address from either place."""
    engine = engine_of(found)
    for check in checks:
        names = {check.connection.sni, check.connection.sni.lower()} if check.connection.sni else {None}
        if engine.evaluate(check).decision.allowed:
            for name, address in product(names, {check.remote_ip, last_forwarded(check) or check.remote_ip}):
                assert istio.decide(found, with_connection(replace(check, remote_ip=address), sni=name), OPTIONS)


names = st.sampled_from(
    [
        *map(read_name, IDS),
        *map(read_name, ["https://td/ns/a/sa/x", "spiffe://td", "spiffe://td/ns/a/sa/x/", "CN=x", "spiffe://"]),
        Identity.of(["spiffe://td/ns/a/sa/x", "spiffe://old/ns/b/sa/y", "x.a"]),
        Identity.of(["a/ns/b/sa/y", "spiffe://td/ns/a//sa/x"]),
    ]
)


def sent_target(check):
    """Path and authority as Envoy has them of every request: it takes none without an authority, which may be empty."""
    host = check.host or ""
    return {"path": check.path or "", "host": host, "headers": {":authority": (host,), **check.headers}}


sent_requests = st.builds(
    lambda check, source, address, sni: with_connection(
        replace(check, remote_ip=address, **({} if check.is_tcp else sent_target(check))),
        source=source,
        source_ip=address,
        destination_ip=check.connection.destination_ip or address,
        destination_port=check.connection.destination_port or 80,
        sni=sni,
    ),
    requests,
    names,
    st.sampled_from(ADDRESSES),
    st.sampled_from(["", "h", "x.org", "h."]),
)


@settings(max_examples=300, deadline=None)
@given(
    sets_or_one_simple_rule,
    st.lists(sent_requests, min_size=1, max_size=16),
)
def test_the_index_decides_as_envoy_does_with_the_filters_that_istio_makes(found, checks):
    engine = engine_of(found, AS_ISTIO)
    for check in checks:
        seen = replace(check, remote_ip=last_forwarded(check) or check.connection.source_ip)
        assert engine.evaluate(check).decision.allowed == istio.decide(found, seen, OPTIONS)


@settings(max_examples=40, deadline=None)
@given(policy_sets, policies, requests)
def test_one_more_deny_policy_never_allows_what_was_denied(found, extra, check):
    more = [*found, replace(extra, name="extra", action=Action.DENY, dry_run=False)]
    assert allows(found, check) or not allows(more, check)


@settings(max_examples=80, deadline=None)
@given(
    policy_sets, policies, requests, st.sampled_from([(Action.AUDIT, False), (Action.ALLOW, True), (Action.DENY, True)])
)
def test_a_policy_that_decides_nothing_changes_no_decision(found, extra, check, watched):
    action, dry_run = watched
    more = [*found, replace(extra, name="extra", action=action, dry_run=dry_run)]
    for options in (OPTIONS, AS_ISTIO):
        before, after = (engine_of(policies, options).evaluate(check) for policies in (found, more))
        assert replace(after.decision, observed=()) == replace(before.decision, observed=())
        assert after.cause is before.cause


@settings(max_examples=40, deadline=None)
@given(policy_sets.flatmap(lambda found: st.tuples(st.just(found), st.permutations(found))), requests)
def test_the_order_of_policies_changes_neither_decision_nor_reason(orders, check):
    first, second = (engine_of(found).evaluate(check) for found in orders)
    assert first == second


@settings(max_examples=40, deadline=None)
@given(policy_sets, requests, st.lists(st.sampled_from(REQUEST_PATHS), max_size=2))
def test_a_request_that_reads_in_several_ways_is_allowed_if_it_is_under_each(found, check, others):
    each = [allows(found, replace(check, path=path)) for path in (check.path, *others)]
    assert allows(found, replace(check, other_paths=tuple(others))) == all(each)


@settings(max_examples=200, deadline=None)
@given(
    policy_sets,
    requests,
    st.lists(st.sampled_from(["x-a", "x-http-method", "x-method-override"]), unique=True),
    st.sampled_from(HEADER_VALUES),
    st.sampled_from(METHODS),
)
def test_what_passes_without_knowing_a_header_passes_with_any_value_of_it(found, check, withheld, values, method):
    told = {"x-a", "x-b", "x-http-method", "x-http-method-override", "x-method-override"}.difference(withheld)
    seen = {name: value for name, value in check.headers.items() if name not in withheld}
    if allows(found, replace(check, headers=seen, forwarded_headers=frozenset(told))):
        sent = {name: values if name == "x-a" else (method,) for name in withheld}
        assert allows(found, replace(check, headers=seen))
        assert allows(found, replace(check, headers=seen | sent))
