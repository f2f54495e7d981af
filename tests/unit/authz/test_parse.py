"""AuthorizationPolicy documents: what is accepted, and every refusal with the path of the field."""

from dataclasses import replace

import pytest

from app.authz.model import Action, Attribute, Patterns, Target, TargetKind
from app.authz.rules.parse import POLICY_KIND
from app.core.errors import InvalidInputError
from app.documents.parser import parse_documents
from tests.assets.request_authentications import peer_authentication
from tests.fakes.authz import policy


def parse(text: str):
    return POLICY_KIND.parse(parse_documents(text.encode()))


def paths_of(text: str) -> list[str]:
    with pytest.raises(InvalidInputError) as caught:
        parse(text)
    return [violation.path for violation in caught.value.violations]


FULL = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: httpbin
  namespace: foo
  labels: {team: a, app.kubernetes.io/part-of: shop}
  annotations: {kubectl.kubernetes.io/last-applied-configuration: '{}', istio.io/dry-run: "false"}
  uid: 8f3a
  creationTimestamp: null
  managedFields: []
spec:
  selector: {matchLabels: {app: httpbin, version: v1}}
  action: DENY
  rules:
  - from:
    - source:
        principals: [cluster.local/ns/default/sa/curl]
        notIpBlocks: [10.0.0.0/8]
    - source: {serviceAccounts: [curl, other/curl]}
    to:
    - operation: {methods: [GET], paths: ["/info*"], hosts: ["Example.org"], notPorts: ["80"]}
    when:
    - key: request.headers[X-Token]
      values: [a, b*]
      notValues: [bad]
status: {}
"""


def test_a_document_as_istio_users_write_it_is_read():
    (found,) = parse(FULL)
    assert (found.key, found.action) == ("foo/httpbin", Action.DENY)
    assert found.selector == (("app", "httpbin"), ("version", "v1"))
    (rule,) = found.rules
    assert rule.sources[0].principals == Patterns(("cluster.local/ns/default/sa/curl",))
    assert rule.sources[1].service_accounts == Patterns(("foo/curl", "other/curl"))
    assert rule.operations[0].hosts == Patterns(("example.org",))
    assert rule.operations[0].ports.none_of == (80,)
    (condition,) = rule.conditions
    assert (condition.attribute, condition.header) == (Attribute.HEADER, "x-token")
    assert condition.values == Patterns(("a", "b*"), ("bad",))


@pytest.mark.parametrize(
    ("text", "dry_run"),
    [("1", True), ("t", True), ("TRUE", True), ("True", True), ("false", False), ("0", False), ("F", False)],
)
def test_the_annotation_of_a_dry_run_is_read_as_go_reads_it(text, dry_run):
    metadata = f"{{name: p, annotations: {{istio.io/dry-run: '{text}'}}}}"
    head = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy"
    (found,) = parse(f"{head}\nmetadata: {metadata}\nspec: {{}}")
    assert found.dry_run is dry_run


@pytest.mark.parametrize(
    ("reference", "kind"),
    [
        ("{group: gateway.networking.k8s.io, kind: Gateway, name: a}", TargetKind.GATEWAY),
        ("{group: gateway.networking.k8s.io, kind: GatewayClass, name: a}", TargetKind.GATEWAY_CLASS),
        ("{kind: Service, name: a, namespace: shop}", TargetKind.SERVICE),
        ("{group: '', kind: Service, name: a}", TargetKind.SERVICE),
        ("{group: core, kind: Service, name: a}", TargetKind.SERVICE),
        ("{group: networking.istio.io, kind: ServiceEntry, name: a}", TargetKind.SERVICE_ENTRY),
    ],
)
def test_targets_are_read_from_either_field(reference, kind):
    for spec in (f"{{targetRefs: [{reference}]}}", f"{{targetRef: {reference}}}"):
        assert parse(policy(spec))[0].targets == (Target(kind, "a"),)


def test_an_audit_policy_is_read():
    (found,) = parse(policy("{action: AUDIT, rules: [{}]}"))
    assert found.action is Action.AUDIT
    assert parse(policy("{action: AUDIT}"))[0].rules == ()


@pytest.mark.parametrize(
    ("key", "attribute", "header"),
    [
        ("request.headers[:authority]", Attribute.HEADER, ":authority"),
        ("request.headers[Host]", Attribute.HEADER, ":authority"),
        ("request.headers[:path]", Attribute.HEADER, ":path"),
        ("request.headers[:scheme]", Attribute.HEADER, ":scheme"),
        ("request.headers[:Method]", Attribute.METHOD, ""),
    ],
)
def test_a_pseudo_header_is_a_key_of_a_condition(key, attribute, header):
    (found,) = parse(policy(f"{{rules: [{{when: [{{key: '{key}', values: [a]}}]}}]}}"))
    (condition,) = found.rules[0].conditions
    assert (condition.attribute, condition.header, condition.values) == (attribute, header, Patterns(("a",)))


def test_namespace_action_and_version_have_istios_defaults():
    (found,) = POLICY_KIND.parse(
        [
            {
                "apiVersion": "security.istio.io/v1beta1",
                "kind": "AuthorizationPolicy",
                "metadata": {"name": "a"},
                "spec": {},
            }
        ]
    )
    assert (found.namespace, found.action, found.rules, found.selector) == ("default", Action.ALLOW, (), ())


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ("{actions: DENY}", "spec.actions"),
        ("{action: BLOCK, rules: [{}]}", "spec.action"),
        ("{action: allow, rules: [{}]}", "spec.action"),
        ("{action: DENY}", "spec.rules"),
        ("{action: DENY, rules: []}", "spec.rules"),
        ("{rules: {}}", "spec.rules"),
        ("{rules: [null]}", "spec.rules[0]"),
        ("{rules: [{form: []}]}", "spec.rules[0].form"),
        ("{rules: [{from: null}]}", "spec.rules[0].from"),
        ("{rules: [{from: [], form: []}]}", "spec.rules[0].form"),
        ("{rules: [{from: [{}]}]}", "spec.rules[0].from[0].source"),
        ("{rules: [{from: [{source: {}}]}]}", "spec.rules[0].from[0].source"),
        ("{rules: [{from: [{source: null}]}]}", "spec.rules[0].from[0].source"),
        ("{rules: [{to: [{operation: {}}]}]}", "spec.rules[0].to[0].operation"),
        ("{rules: [{to: [{operation: {method: [GET]}}]}]}", "spec.rules[0].to[0].operation.method"),
        ("{rules: [{to: [{operation: {methods: GET}}]}]}", "spec.rules[0].to[0].operation.methods"),
        ("{rules: [{to: [{operation: {methods: [GET, '']}}]}]}", "spec.rules[0].to[0].operation.methods[1]"),
        ("{rules: [{to: [{operation: {methods: []}}]}]}", "spec.rules[0].to[0].operation"),
        ("{rules: [{to: [{operation: {ports: [8080]}}]}]}", "spec.rules[0].to[0].operation.ports[0]"),
        ("{rules: [{to: [{operation: {ports: ['0']}}]}]}", "spec.rules[0].to[0].operation.ports[0]"),
        ("{rules: [{to: [{operation: {ports: ['65536']}}]}]}", "spec.rules[0].to[0].operation.ports[0]"),
        ("{rules: [{to: [{operation: {ports: ['٨٠']}}]}]}", "spec.rules[0].to[0].operation.ports[0]"),
        ("{rules: [{to: [{operation: {paths: ['/a/{**}/{*}']}}]}]}", "spec.rules[0].to[0].operation.paths[0]"),
        ("{rules: [{to: [{operation: {paths: ['/a/{*}b']}}]}]}", "spec.rules[0].to[0].operation.paths[0]"),
        ("{rules: [{to: [{operation: {paths: ['/a*/{*}']}}]}]}", "spec.rules[0].to[0].operation.paths[0]"),
        ("{rules: [{to: [{operation: {paths: ['/{id}']}}]}]}", "spec.rules[0].to[0].operation.paths[0]"),
        ("{rules: [{from: [{source: {ipBlocks: [10.0.0.0/33]}}]}]}", "spec.rules[0].from[0].source.ipBlocks[0]"),
        ("{rules: [{from: [{source: {ipBlocks: [10.0.0.0/255.0.0.0]}}]}]}", "spec.rules[0].from[0].source.ipBlocks[0]"),
        ("{rules: [{from: [{source: {ipBlocks: [10.0.0.0/08]}}]}]}", "spec.rules[0].from[0].source.ipBlocks[0]"),
        ("{rules: [{from: [{source: {ipBlocks: [10.0.0.0/]}}]}]}", "spec.rules[0].from[0].source.ipBlocks[0]"),
        ("{rules: [{from: [{source: {ipBlocks: ['fe80::1%eth0']}}]}]}", "spec.rules[0].from[0].source.ipBlocks[0]"),
        ("{rules: [{when: [{key: remote.ip, notValues: [10.0.0.0/+8]}]}]}", "spec.rules[0].when[0].notValues[0]"),
        ("{rules: [{from: [{source: {trustDomains: ['a*b']}}]}]}", "spec.rules[0].from[0].source.trustDomains[0]"),
        ("{rules: [{from: [{source: {trustDomains: ['*a*']}}]}]}", "spec.rules[0].from[0].source.trustDomains[0]"),
        ("{rules: [{when: [{key: source.trustDomain, values: ['a*b*']}]}]}", "spec.rules[0].when[0].values[0]"),
        ("{rules: [{to: [{operation: {paths: ['/a//{*}']}}]}]}", "spec.rules[0].to[0].operation.paths[0]"),
        ("{rules: [{to: [{operation: {notPaths: ['/{**}//a']}}]}]}", "spec.rules[0].to[0].operation.notPaths[0]"),
        ("{rules: [{from: [{source: {principals: [], ipBlocks: []}}]}]}", "spec.rules[0].from[0].source"),
        ("{rules: [{from: [{source: {requestPrincipals: []}}]}]}", "spec.rules[0].from[0].source"),
        (
            "{rules: [{from: [{source: {serviceAccounts: [], principals: ['']}}]}]}",
            "spec.rules[0].from[0].source.principals[0]",
        ),
        ("{rules: [{when: [{key: source.ip, values: []}]}]}", "spec.rules[0].when[0].values"),
        ("{rules: [{when: [{key: source.ip, values: [], notValues: []}]}]}", "spec.rules[0].when[0].values"),
        (
            "{rules: [{from: [{source: {serviceAccounts: [a], namespaces: [b]}}]}]}",
            "spec.rules[0].from[0].source.serviceAccounts",
        ),
        ("{rules: [{from: [{source: {serviceAccounts: ['a*']}}]}]}", "spec.rules[0].from[0].source.serviceAccounts[0]"),
        (
            f"{{rules: [{{from: [{{source: {{serviceAccounts: [{', '.join(['a'] * 17)}]}}}}]}}]}}",
            "spec.rules[0].from[0].source.serviceAccounts",
        ),
        ("{rules: [{when: [{key: a.b, values: [x]}]}]}", "spec.rules[0].when[0].key"),
        ("{rules: [{when: [{values: [x]}]}]}", "spec.rules[0].when[0].key"),
        ("{rules: [{when: [{key: source.ip}]}]}", "spec.rules[0].when[0].values"),
        ("{rules: [{when: [{key: source.ip, values: [x]}]}]}", "spec.rules[0].when[0].values[0]"),
        ("{rules: [{when: [{key: destination.port, notValues: [http]}]}]}", "spec.rules[0].when[0].notValues[0]"),
        ("{rules: [{when: [{key: 'request.headers[::path]', values: [x]}]}]}", "spec.rules[0].when[0].key"),
        ("{rules: [{when: [{key: 'request.headers[:]', values: [x]}]}]}", "spec.rules[0].when[0].key"),
        ("{rules: [{when: [{key: 'request.headers[]', values: [x]}]}]}", "spec.rules[0].when[0].key"),
        ("{rules: [{when: [{key: 'request.headers[a]b', values: [x]}]}]}", "spec.rules[0].when[0].key"),
        ("{rules: [{when: [{key: 'request.auth.claims', values: [x]}]}]}", "spec.rules[0].when[0].key"),
        ("{rules: [{when: [{key: 'request.auth.claims[]', values: [x]}]}]}", "spec.rules[0].when[0].key"),
        ("{rules: [{when: [{key: 'request.auth.claims[a]b', values: [x]}]}]}", "spec.rules[0].when[0].key"),
        ("{rules: [{when: [{key: 'request.auth.subject', values: [x]}]}]}", "spec.rules[0].when[0].key"),
        ("{rules: [{when: [{key: 'experimental.envoy.filters.a', values: [x]}]}]}", "spec.rules[0].when[0].key"),
        ("{rules: [{when: [{key: 'experimental.other[b]', values: [x]}]}]}", "spec.rules[0].when[0].key"),
        ("{rules: [{when: [{key: source.ip, value: ['1.1.1.1']}]}]}", "spec.rules[0].when[0].value"),
        ("{selector: {matchLabels: {app: '*'}}}", "spec.selector.matchLabels.app"),
        ("{selector: {matchLabels: {'a b': c}}}", "spec.selector.matchLabels.a b"),
        ("{selector: {matchLabels: {app: 1}}}", "spec.selector.matchLabels.app"),
        ("{selector: {matchExpressions: []}}", "spec.selector.matchExpressions"),
        ("{selector: {matchLabels: {}}, targetRefs: [{kind: Service, name: a}]}", "spec.targetRefs"),
        ("{targetRefs: {}}", "spec.targetRefs"),
        ("{targetRefs: [{kind: Service}]}", "spec.targetRefs[0].name"),
        ("{targetRefs: [{kind: Service, name: A_b}]}", "spec.targetRefs[0].name"),
        ("{targetRefs: [{kind: Gateway, name: a}]}", "spec.targetRefs[0].kind"),
        ("{targetRefs: [{group: apps, kind: Deployment, name: a}]}", "spec.targetRefs[0].kind"),
        ("{targetRefs: [{kind: Service, name: a, namespace: other}]}", "spec.targetRefs[0].namespace"),
        ("{targetRefs: [{kind: Service, name: a, port: 80}]}", "spec.targetRefs[0].port"),
        ("{targetRef: {kind: Pod, name: a}}", "spec.targetRef.kind"),
        ("{targetRef: [{kind: Service, name: a}]}", "spec.targetRef"),
        ("{selector: {matchLabels: {a: b}}, targetRef: {kind: Service, name: a}}", "spec.targetRef"),
        (
            "{targetRef: {kind: Service, name: a}, targetRefs: [{kind: Service, name: b}]}",
            "spec.targetRefs",
        ),
        (f"{{targetRefs: [{', '.join(['{kind: Service, name: a}'] * 17)}]}}", "spec.targetRefs"),
        (f"{{rules: [{', '.join(['{}'] * 513)}]}}", "spec.rules"),
    ],
)
def test_what_is_wrong_in_a_spec_is_refused_with_its_path(spec, path):
    assert path in paths_of(policy(spec))


AUDITING = "spec: {action: AUDIT, rules: [{}]}"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("a: 1", "apiVersion"),
        ("apiVersion: security.istio.io/v2\nkind: AuthorizationPolicy", "apiVersion"),
        ("apiVersion: security.istio.io/v1\nkind: Gateway", "kind"),
        ("apiVersion: security.istio.io/v1\nkind: [PeerAuthentication]", "kind"),
        ("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy", "metadata"),
        ("metadata: {}", "metadata.name"),
        ("metadata: {name: Upper}", "metadata.name"),
        ("metadata: {name: a, namespace: 'a.b'}", "metadata.namespace"),
        ("metadata: {name: a, namespace: ../x}", "metadata.namespace"),
        ("metadata: {generateName: a-}", "metadata.generateName"),
        ("metadata: {name: a, lables: {}}", "metadata.lables"),
        ("metadata: {name: a, labels: {x: 1}}", "metadata.labels.x"),
        ("metadata: {name: a, annotations: {x: 1}}", "metadata.annotations.x"),
        ("metadata: {name: a, annotations: {istio.io/dry-run: 'yes'}}", "metadata.annotations.istio.io/dry-run"),
        ("metadata: {name: a, annotations: {istio.io/dry-run: ''}}", "metadata.annotations.istio.io/dry-run"),
        (
            f"{AUDITING}\nmetadata: {{annotations: {{istio.io/dry-run: 'true'}}}}",
            "metadata.annotations.istio.io/dry-run",
        ),
        (
            f"{AUDITING}\nmetadata: {{annotations: {{istio.io/dry-run: 'false'}}}}",
            "metadata.annotations.istio.io/dry-run",
        ),
        ("extra: 1", "extra"),
    ],
)
def test_what_is_wrong_around_a_spec_is_refused_with_its_path(text, path):
    assert path in paths_of(text)


def test_a_policy_without_a_spec_allows_nothing_as_in_istio_and_is_warned_of():
    (found,) = parse("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}")
    (same,) = parse("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec: {}")
    assert [each.path for each in found.warnings] == ["spec"]
    assert replace(found, warnings=()) == same


def test_what_is_null_in_metadata_is_absent_as_to_kubernetes():
    nulls = "namespace: null, labels: null, annotations: null, generateName: null, finalizers: null"
    (found,) = parse(
        f"apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, {nulls}}}\nspec: {{}}"
    )
    assert found.key == "default/p"


@pytest.mark.parametrize(
    ("text", "known"),
    [
        (policy("{actoin: DENY}"), "action, provider, rules, selector, targetRef, targetRefs"),
        (policy("{rules: [{when: [{Key: source.ip, values: [10.0.0.1]}]}]}"), "key, notValues, values"),
        (policy("{}").replace("namespace:", "namespce:"), "name, namespace,"),
    ],
)
def test_a_field_that_is_not_known_is_refused_with_all_that_are(text, known):
    with pytest.raises(InvalidInputError) as caught:
        parse(text)
    assert any(
        "is not a field here; the fields are" in each.problem and known in each.problem
        for each in caught.value.violations
    )


def test_all_violations_of_all_documents_are_reported_at_once():
    text = policy("{action: X}", name="a") + policy(
        "{rules: [{to: [{operation: {ports: [x, '1', y]}}]}], y: 1}", name="b"
    )
    assert paths_of(text) == [
        "documents[0].spec.action",
        "documents[1].spec.rules[0].to[0].operation.ports[0]",
        "documents[1].spec.rules[0].to[0].operation.ports[2]",
        "documents[1].spec.y",
    ]


def test_a_document_of_another_security_kind_is_refused_once():
    assert paths_of(policy("{}") + peer_authentication("STRICT")) == ["documents[1].kind"]
    with pytest.raises(InvalidInputError, match="kind: is PeerAuthentication, and this is about policies"):
        parse(peer_authentication("STRICT"))


def test_two_documents_for_one_policy_are_refused():
    assert paths_of(policy("{}") + policy("{}")) == ["documents[1]"]


def test_no_document_is_refused():
    assert paths_of("---\n") == [""]


def test_a_message_has_the_first_violation_and_the_number_of_others():
    with pytest.raises(InvalidInputError, match=r"spec\.action: 'X' is not an action.*\(and 1 more\)"):
        parse(policy("{action: X, y: 1}"))


@pytest.mark.parametrize(
    ("spec", "same", "empty"),
    [
        ("{rules: [{from: []}]}", "{rules: [{}]}", "rules[0].from"),
        ("{rules: [{to: []}]}", "{rules: [{}]}", "rules[0].to"),
        ("{action: DENY, rules: [{when: []}]}", "{action: DENY, rules: [{}]}", "rules[0].when"),
        (
            "{rules: [{to: [{operation: {paths: [], methods: [GET]}}]}]}",
            "{rules: [{to: [{operation: {methods: [GET]}}]}]}",
            "rules[0].to[0].operation.paths",
        ),
        (
            "{rules: [{from: [{source: {serviceAccounts: [], principals: [a]}}]}]}",
            "{rules: [{from: [{source: {principals: [a]}}]}]}",
            "rules[0].from[0].source.serviceAccounts",
        ),
        (
            "{rules: [{when: [{key: source.ip, values: [], notValues: [10.0.0.1]}]}]}",
            "{rules: [{when: [{key: source.ip, notValues: [10.0.0.1]}]}]}",
            "rules[0].when[0].values",
        ),
        ("{targetRefs: [], selector: {matchLabels: {a: b}}}", "{selector: {matchLabels: {a: b}}}", "targetRefs"),
        ("{rules: []}", "{}", ""),
    ],
)
def test_an_empty_list_is_read_as_istio_reads_it_and_warned_of_where_it_matches_more(spec, same, empty):
    (found,) = POLICY_KIND.parse(parse_documents(policy(spec).encode()))
    (other,) = POLICY_KIND.parse(parse_documents(policy(same).encode()))
    assert (found.action, found.rules, found.selector) == (other.action, other.rules, other.selector)
    warned = [warning.path for warning in found.warnings if "empty list" in warning.problem]
    assert warned == ([f"spec.{empty}"] if empty else [])
