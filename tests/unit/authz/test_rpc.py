"""Which parts of a CheckRequest are read, and what a CheckResponse contains."""

import asyncio
from functools import partial
from itertools import product
from urllib.parse import quote

import pytest

from app.authz.model import AuthzOptions, Cause, Matching, Verdict
from app.authz.rpc import check as rpc_module
from app.authz.rpc.check import AuthorizationRpc
from app.authz.rpc.destination import Gateways
from app.core.decision import Decision, Outcome
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Credential, Principal
from app.telemetry.metrics import Metrics
from tests.assets.certificates import MeshCa, new_key, pem
from tests.fakes.authz import policy
from tests.fakes.bans import ListedBans
from tests.fakes.checks import API, FRONT, check_answer, check_request, context, policy_service
from tests.fakes.clock import ManualClock
from tests.fakes.engine import WaitingEngine

DENY_ADMIN = policy("{action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}", "no-admin")
FROM_FRONT = policy("{rules: [{from: [{source: {principals: [cluster.local/ns/web/sa/front]}}]}]}", "front")


async def answer(text, request, *, caller=None, **options):
    rpc = AuthorizationRpc(await policy_service(text), **options)
    return check_answer(rpc, request, caller)


async def allows(text, request, **options) -> bool:
    response = await answer(text, request, **options)
    assert response.HasField("ok_response") == (response.status.code == 0)
    return response.status.code == 0


def metadata(response) -> dict[str, str]:
    return dict(response.dynamic_metadata.items())


async def test_an_allowed_request_is_ok_and_names_the_rule_to_the_proxy_only():
    response = await answer(FROM_FRONT, check_request())
    assert response.status.code == 0
    assert metadata(response) == {
        "meshward.decision": "allow",
        "meshward.reason": "allowed by rules[0] of policy shop/front",
        "meshward.policy": "shop/front",
        "meshward.rule": "rules[0]",
    }
    assert not response.ok_response.response_headers_to_add
    assert not response.ok_response.headers


async def test_what_policies_find_that_decide_nothing_is_in_the_metadata_by_istios_names():
    def dry(spec, name):
        metadata = f"{{name: {name}, namespace: shop"
        return policy(spec, name).replace(metadata, f"{metadata}, annotations: {{istio.io/dry-run: 'true'}}")

    deny = "{action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}"
    allow = "{rules: [{to: [{operation: {paths: [/admin]}}]}]}"
    audit = policy("{action: AUDIT, rules: [{to: [{operation: {paths: [/x]}}]}, {}]}", "seen")
    text = dry(deny, "no-admin") + dry(allow, "admin") + audit
    rpc = AuthorizationRpc(await policy_service(text))
    response = check_answer(rpc, check_request("/admin"))
    found = {key: value for key, value in metadata(response).items() if key != "meshward.reason"}
    assert found == {
        "meshward.decision": "allow",
        "meshward.audit": "shop/seen rules[1]",
        "istio_dry_run_deny_shadow_engine_result": "denied",
        "istio_dry_run_deny_shadow_effective_policy_id": "ns[shop]-policy[no-admin]-rule[0]",
        "istio_dry_run_allow_shadow_engine_result": "allowed",
        "istio_dry_run_allow_shadow_effective_policy_id": "ns[shop]-policy[admin]-rule[0]",
    }
    other = metadata(check_answer(rpc, check_request("/x")))
    assert other["istio_dry_run_deny_shadow_engine_result"] == "allowed"
    assert other["istio_dry_run_allow_shadow_engine_result"] == "denied"
    assert "istio_dry_run_allow_shadow_effective_policy_id" not in other
    assert other["meshward.audit"] == "shop/seen rules[0]"


async def test_a_denied_request_is_403_with_a_body_that_helps_and_does_not_name_the_policy():
    response = await answer(DENY_ADMIN, check_request("/admin?token=secret"))
    denied = response.denied_response
    assert (response.status.code, denied.status.code) == (7, 403)
    assert denied.body.startswith("GET /admin was denied")
    assert "no-admin" not in denied.body
    assert "secret" not in denied.body
    assert {h.header.key: h.header.value for h in denied.headers} == {"content-type": "text/plain; charset=utf-8"}
    assert metadata(response)["meshward.policy"] == "shop/no-admin"


async def test_the_client_gets_the_rule_where_that_is_configured():
    denied = (await answer(DENY_ADMIN, check_request("/admin"), expose_decision=True)).denied_response
    headers = {h.header.key: h.header.value for h in denied.headers}
    assert headers["x-meshward-decision"] == "deny; policy=shop/no-admin; rule=rules[0]"
    assert "rules[0] of policy shop/no-admin" in denied.body
    allowed = (await answer(FROM_FRONT, check_request(), expose_decision=True)).ok_response
    assert [h.header.value for h in allowed.response_headers_to_add] == ["allow; policy=shop/front; rule=rules[0]"]


async def test_a_kept_answer_is_not_changed_by_the_next_denial():
    rpc = AuthorizationRpc(await policy_service(policy("{action: DENY, rules: [{}]}")))
    first = check_answer(rpc, check_request("/one"))
    second = check_answer(rpc, check_request("/two"))
    assert first.denied_response.body.startswith("GET /one ")
    assert second.denied_response.body.startswith("GET /two ")


async def test_an_answer_is_never_given_for_another_decision_that_has_its_reason(monkeypatch):
    service = await policy_service()
    rpc = AuthorizationRpc(service)
    decisions = [Decision(outcome, "because", name) for outcome in Outcome for name in ("shop/one", "shop/two")]
    found = []
    for decision in decisions:
        monkeypatch.setattr(service, "check", lambda _request, decision=decision: decision)
        response = check_answer(rpc, check_request())
        found.append((response.status.code, metadata(response)["meshward.policy"]))
    assert found == [(0, "shop/one"), (0, "shop/two"), (7, "shop/one"), (7, "shop/two")]


async def test_the_answers_that_are_kept_are_bounded(monkeypatch):
    monkeypatch.setattr(rpc_module, "MAX_KEPT_ANSWERS", 2)
    service = await policy_service()
    rpc = AuthorizationRpc(service)
    for outcome, number in product(Outcome, range(5)):
        decision = Decision(outcome, "because", f"shop/{number}")
        monkeypatch.setattr(service, "check", lambda _request, decision=decision: decision)
        assert metadata(check_answer(rpc, check_request()))["meshward.policy"] == f"shop/{number}"
    assert max(len(rpc._ready), len(rpc._denials)) <= 2


@pytest.mark.parametrize(
    "principal", ["CN=front", "front.web.svc", "spiffe://UPPER/ns/web/sa/front", "spiffe://a/../b"]
)
async def test_a_principal_that_is_no_spiffe_id_is_denied_even_without_policies(principal):
    assert not await allows("", check_request(principal=principal))


async def test_a_peer_without_identity_is_anonymous():
    assert await allows("", check_request(principal=""))
    assert not await allows(FROM_FRONT, check_request(principal=""))


async def test_the_destination_comes_from_its_principal_an_extension_or_the_caller():
    for kind in (
        check_request("/admin"),
        check_request("/admin", destination="", extensions={"meshward.namespace": "shop"}),
    ):
        assert not await allows(DENY_ADMIN, kind)
    sidecar = Principal(Credential.SVID, SpiffeId.parse(API))
    assert not await allows(DENY_ADMIN, check_request("/admin", destination=""), caller=sidecar)
    assert await allows(DENY_ADMIN, check_request("/", destination=""), caller=sidecar)


async def test_a_missing_or_contradictory_destination_is_denied():
    missing = await answer("", check_request(destination=""))
    assert "destination workload is missing" in metadata(missing)["meshward.reason"]
    assert not await allows("", check_request(extensions={"meshward.namespace": "other"}))
    assert not await allows("", check_request(destination="", extensions={"meshward.namespace": "No NS"}))
    assert not await allows("", check_request(destination="spiffe://td/other-form"))


@pytest.mark.parametrize("principal", ["shop.example.org", "https://shop.example.org/", "CN=shop"])
async def test_a_destination_whose_certificate_is_no_svid_is_named_or_the_callers(principal):
    sidecar = Principal(Credential.SVID, SpiffeId.parse(API))
    assert not await allows("", check_request(destination=principal))
    named = {"meshward.namespace": "shop"}
    for check, caller in (
        (partial(check_request, destination=principal, extensions=named), None),
        (partial(check_request, destination=principal), sidecar),
    ):
        assert not await allows(DENY_ADMIN, check("/admin"), caller=caller)
        assert await allows(DENY_ADMIN, check("/"), caller=caller)


EDGE = "spiffe://cluster.local/ns/edge/sa/gateway"
GATEWAYS = Gateways({EDGE: frozenset({"shop"}), "spiffe://cluster.local/gateway": frozenset({"*"})})


@pytest.mark.parametrize(
    ("caller", "destination", "named", "expected"),
    [
        # By the SVID of the caller, of the listener, or of both.
        (EDGE, "", "shop", "shop"),
        (None, EDGE, "shop", "shop"),
        (EDGE, EDGE, "shop", "shop"),
        (EDGE, "shop.example.org", "shop", "shop"),
        (EDGE, API, None, "shop"),
        (EDGE, EDGE, None, "edge"),
        (EDGE, EDGE, "edge", "edge"),
        (EDGE, "", "stock", None),
        (None, EDGE, "stock", None),
        (EDGE, EDGE, "stock", None),
        # A namespace of the listener that is not the caller's has to be named as well.
        (API, EDGE, None, None),
        (API, EDGE, "shop", None),
        (EDGE, "spiffe://cluster.local/ns/stock/sa/x", None, None),
        (API, "", "edge", None),
        (API, "", "shop", "shop"),
        ("spiffe://cluster.local/gateway", "", "anything", "anything"),
        (None, "spiffe://cluster.local/gateway", "anything", "anything"),
        ("spiffe://cluster.local/other", "", "shop", None),
        ("spiffe://other.example.org/ns/edge/sa/gateway", "", "shop", None),
        # Who proves nothing is on this machine, and is believed.
        (None, "", "anything", "anything"),
        (None, API, None, "shop"),
    ],
)
async def test_a_caller_speaks_for_its_own_namespace_and_for_those_of_the_settings(
    caller, destination, named, expected
):
    deny_all = "".join(
        policy("{action: DENY, rules: [{}]}", namespace, namespace=namespace)
        for namespace in ("shop", "edge", "anything")
    )
    extensions = {} if named is None else {"meshward.namespace": named}
    who = None if caller is None else Principal(Credential.SVID, SpiffeId.parse(caller))
    found = await answer(
        deny_all, check_request(destination=destination, extensions=extensions), caller=who, gateways=GATEWAYS
    )
    assert metadata(found).get("meshward.policy") == (f"{expected}/{expected}" if expected else None)
    if expected is None:
        assert "does not speak for the namespace" in metadata(found)["meshward.reason"]


async def test_labels_of_a_gateway_are_not_those_of_a_workload_that_it_speaks_for():
    text = policy("{selector: {matchLabels: {app: shop}}, action: DENY, rules: [{}]}")

    async def passes(**extensions):
        named = {f"meshward.{name}": value for name, value in extensions.items()}
        check = check_request(destination=EDGE, labels={"app": "gateway"}, extensions=named)
        return await allows(text, check, gateways=GATEWAYS)

    assert not await passes(namespace="shop")
    assert not await passes(namespace="shop", labels="app=shop")
    assert await passes(namespace="shop", labels="app=other")
    assert await passes()


async def test_labels_come_from_the_destination_or_an_extension():
    text = policy("{selector: {matchLabels: {app: shop}}, action: DENY, rules: [{}]}")
    assert not await allows(text, check_request(labels={"app": "shop", "v": "1"}))
    assert await allows(text, check_request(labels={"app": "other"}))
    assert not await allows(text, check_request(labels={}, extensions={"meshward.labels": "v=1,app=shop"}))
    assert await allows(text, check_request(labels={}, extensions={"meshward.labels": "app=other"}))
    assert await allows(text, check_request(labels={}, extensions={"meshward.labels": ""}))
    assert not await allows(text, check_request(labels={}))
    both = {"meshward.labels": "meshward.io/service=cart,v=2"}
    assert not await allows(text, check_request(labels={"app": "shop", "v": "1"}, extensions=both))
    of_service = policy("{targetRef: {kind: Service, name: cart}, action: DENY, rules: [{}]}")
    assert not await allows(of_service, check_request(labels={"app": "shop"}, extensions=both))
    assert await allows(of_service, check_request(labels={"app": "shop"}))


@pytest.mark.parametrize("labels", ["app", "app=shop,", "app=a,app=b", " app=shop", "=x", "app=a b", "a=" + "x" * 64])
async def test_labels_that_are_not_written_as_labels_deny(labels):
    assert not await allows("", check_request(labels={}, extensions={"meshward.labels": labels}))


async def test_a_check_over_grpc_has_every_header_unless_the_proxy_declares_which_ones():
    text = policy("{action: DENY, rules: [{when: [{key: 'request.headers[x-role]', values: [admin]}]}]}")
    assert await allows(text, check_request())
    told = {"x-tenant": False, "": False, "x-role": True, "*, !x-role": False, "a b": False}
    for declared, expected in told.items():
        extensions = {"meshward.forwarded_headers": declared}
        assert await allows(text, check_request(extensions=extensions)) is expected
    named = check_request(extensions={"meshward.forwarded_headers": ""}, headers={"x-role": "user"})
    assert await allows(text, named)


async def test_headers_are_read_from_either_form():
    text = policy("{rules: [{when: [{key: 'request.headers[x-role]', values: [admin]}]}]}")
    assert await allows(text, check_request(headers={"x-role": "admin"}))
    assert await allows(text, check_request(raw_headers=[("X-Role", b"admin")]))
    assert not await allows(text, check_request(headers={"x-role": "user"}))
    assert not await allows(text, check_request(raw_headers=[("x-role", b"admin"), ("x-role", b"user")]))
    assert not await allows(text, check_request())


@pytest.mark.parametrize("raw", [False, True])
async def test_pseudo_headers_are_what_the_proxy_told_and_no_header_that_a_client_sent(raw):
    def asks(path="/a?b=1", host="Shop.example.org", scheme="https"):
        forged = {":authority": "forged", ":path": "/forged", ":scheme": "forged"}
        if raw:
            request = check_request(
                path, host=host, raw_headers=[(key, value.encode()) for key, value in forged.items()]
            )
        else:
            request = check_request(path, host=host, headers=forged)
        request.attributes.request.http.scheme = scheme
        return request

    def when(name, value):
        return policy(f"{{rules: [{{when: [{{key: 'request.headers[{name}]', values: ['{value}']}}]}}]}}")

    for name, value in (
        (":authority", "Shop.example.org"),
        (":path", "/a?b=1"),
        (":scheme", "https"),
        (":method", "GET"),
    ):
        assert await allows(when(name, value), asks())
        assert not await allows(when(name, "forged"), asks())
    assert not await allows(when(":scheme", "*"), asks(scheme=""))
    assert not await allows(when(":authority", "*"), asks(host=""))


async def test_an_empty_authority_is_one_to_istio():
    service = await policy_service(
        policy("{action: DENY, rules: [{when: [{key: 'request.headers[:authority]', values: [admin]}]}]}"),
        options=AuthzOptions(matching=Matching.ISTIO),
    )
    rpc = AuthorizationRpc(service)
    assert check_answer(rpc, check_request(host="")).status.code == 0
    assert check_answer(rpc, check_request(host="admin")).status.code != 0
    any_host = policy("{action: DENY, rules: [{when: [{key: 'request.headers[:authority]', values: ['*']}]}]}")
    rpc = AuthorizationRpc(await policy_service(any_host, options=AuthzOptions(matching=Matching.ISTIO)))
    assert check_answer(rpc, check_request(host="")).status.code != 0


async def test_addresses_ports_and_server_name_are_read():
    text = policy(
        "{rules: [{from: [{source: {ipBlocks: [10.1.0.0/16], remoteIpBlocks: [10.1.2.3]}}],"
        " to: [{operation: {ports: ['8080']}}],"
        " when: [{key: destination.ip, values: [10.9.9.9]}, {key: connection.sni, values: [shop.example.org]}]}]}"
    )
    request = check_request()
    assert not await allows(text, request)
    request.attributes.tls_session.sni = "shop.example.org"
    assert await allows(text, request)
    request.attributes.destination.address.socket_address.port_value = 8081
    assert not await allows(text, request)


async def test_the_remote_address_is_taken_from_as_many_hops_as_are_trusted():
    text = policy("{rules: [{from: [{source: {remoteIpBlocks: [203.0.113.9]}}]}]}")
    forwarded = {"x-forwarded-for": "203.0.113.9, 10.0.0.1"}
    assert await allows(text, check_request(headers=forwarded), trusted_hops=1)
    assert not await allows(text, check_request(headers=forwarded), trusted_hops=0)
    assert not await allows(text, check_request(headers=forwarded), trusted_hops=2)
    spoofed = {"x-forwarded-for": "203.0.113.9, 198.51.100.7, 10.0.0.1"}
    assert not await allows(text, check_request(headers=spoofed), trusted_hops=1)


async def test_a_check_that_is_not_readable_http_is_denied_and_counted():
    metrics = Metrics()
    rpc = AuthorizationRpc(await policy_service(metrics=metrics))
    for request in (check_request(method="get"), check_request("//x%zz"), check_request(host="a b")):
        response = check_answer(rpc, request)
        assert (response.status.code, response.denied_response.status.code) == (7, 403)
    assert metrics.decisions.value("deny", "malformed") == 3


async def test_a_connection_is_checked_by_what_is_not_http():
    tcp = check_request()
    tcp.attributes.request.ClearField("http")
    tcp.attributes.tls_session.sni = "db.example.org"
    assert await allows("", tcp)
    assert await allows(FROM_FRONT, tcp)
    by_name = (
        "{rules: [{when: [{key: connection.sni, values: [db.example.org]}], to: [{operation: {ports: ['8080']}}]}]}"
    )
    assert await allows(policy(by_name), tcp)
    assert not await allows(policy(by_name.replace("8080", "8081")), tcp)
    response = await answer(DENY_ADMIN, tcp)
    assert (response.status.code, metadata(response)["meshward.policy"]) == (7, "shop/no-admin")
    tcp.attributes.source.principal = "spiffe://other/ns/a/sa/b"
    assert not await allows(FROM_FRONT, tcp)
    tcp.attributes.destination.principal = ""
    assert "destination workload is missing" in metadata(await answer("", tcp))["meshward.reason"]


async def test_a_connect_without_a_path_is_accepted():
    assert await allows("", check_request("", method="CONNECT"))
    assert not await allows(DENY_ADMIN, check_request("", method="CONNECT"))
    assert not await allows("", check_request("", method="GET"))


async def test_a_check_whose_engine_waits_is_answered_when_its_verdict_is_there():
    engine = WaitingEngine()
    rpc = AuthorizationRpc(await policy_service(engine=engine))
    waiting = asyncio.ensure_future(rpc.Check(check_request("/late").SerializeToString(), context()))
    await engine.asked.wait()
    assert not waiting.done()
    engine.answer(Verdict(Decision(Outcome.DENY, "denied by another engine"), Cause.POLICY))
    response = await waiting
    assert (response.status.code, response.denied_response.status.code) == (7, 403)
    assert response.denied_response.body.startswith("GET /late was denied")
    assert metadata(response)["meshward.reason"] == "denied by another engine"


async def test_an_internal_error_is_a_denial(monkeypatch):
    def broken(*_):
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(rpc_module, "rest_of", broken)
    response = await answer("", check_request())
    assert (response.status.code, response.denied_response.status.code) == (7, 403)
    assert "broken" not in str(response)


async def test_a_certificate_must_be_an_svid_and_agree_with_the_principal():
    now = ManualClock().now()
    leaf = MeshCa(now).leaf(new_key().public_key(), now, uris=(FRONT,))
    request = check_request(principal="")
    request.attributes.source.certificate = quote(pem(leaf))
    assert await allows(FROM_FRONT, request)
    request.attributes.source.principal = FRONT
    assert await allows(FROM_FRONT, request)
    request.attributes.source.principal = "spiffe://cluster.local/ns/web/sa/other"
    assert not await allows("", request)


async def test_a_certificate_that_cannot_be_read_is_denied():
    request = check_request(principal="")
    request.attributes.source.certificate = "nonsense"
    assert not await allows("", request)
    request.attributes.source.certificate = "x" * 1_000_000
    assert not await allows("", request)


async def test_a_revoked_certificate_of_the_source_is_denied_and_another_of_its_identity_is_not():
    now, bans = ManualClock().now(), ListedBans()
    ca = MeshCa(now)
    revoked, valid = (ca.leaf(new_key().public_key(), now, uris=(FRONT,)) for _ in range(2))
    bans.ban(f"{revoked.serial_number:032x}")
    rpc = AuthorizationRpc(await policy_service("", bans=bans))
    answers = [check_answer(rpc, check_request(certificate=pem(leaf))) for leaf in (revoked, valid)]
    assert [each.status.code for each in answers] == [7, 0]
    assert "banned" in metadata(answers[0])["meshward.reason"]
