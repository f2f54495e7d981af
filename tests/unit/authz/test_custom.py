"""CUSTOM policies: whom they ask about which requests, and what becomes of the answers."""

import json

import pytest
from envoy.service.auth.v3 import external_auth_pb2

from app.authz.model import Workload
from app.authz.providers import Answer, Changes, ProvidedDecision
from app.authz.rpc.check import AuthorizationRpc
from app.authz.rpc.http import HttpAuthorization
from app.authz.rules.opa import input_document
from app.authz.rules.parse import POLICY_KIND
from app.authz.rules.parts import EVERYTHING
from app.core.decision import Decision
from app.core.errors import InvalidInputError
from app.documents.parser import parse_documents
from tests.assets.jwts import token
from tests.assets.request_authentications import jwt_rule, request_authentication
from tests.fakes.authz import policy, request
from tests.fakes.checks import Policies, check_answer, check_request, context, policy_service
from tests.fakes.documents import MemoryDocuments
from tests.fakes.provider import DENIES, FakeProvider
from tests.fakes.served_authz import ServedAuthz

ADMIN = "{action: CUSTOM, provider: {name: ext}, rules: [{to: [{operation: {paths: ['/admin*']}}]}]}"
CHANGES = Changes(
    headers=(("x-user", "alice"), ("x-group", "a")),
    response_headers=(("x-checked", "yes"),),
    headers_to_remove=("x-secret",),
    query_to_set=(("tenant", "a"),),
    query_to_remove=("debug",),
    metadata=json.dumps({"user": "alice", "meshward.decision": "forged"}),
)


async def decided(text, check, **providers) -> Decision:
    found = (await policy_service(text, providers=providers)).check(check)
    return found if isinstance(found, Decision) else await found


async def test_a_provider_is_asked_about_what_a_rule_matches_and_about_nothing_else():
    provider = FakeProvider(DENIES)
    denied = await decided(policy(ADMIN), request("/admin/x"), ext=provider)
    assert not denied.allowed
    assert denied.reason == "denied by provider ext, which rules[0] of policy shop/p asks: not today"
    assert (denied.policy, denied.rule) == ("shop/p", "rules[0]")
    assert (await decided(policy(ADMIN), request("/public"), ext=provider)).allowed
    assert [each.path for each in provider.requests] == ["/admin/x"]


async def test_a_provider_does_not_let_pass_what_another_policy_denies():
    provider = FakeProvider()
    deny = policy("{action: DENY, rules: [{}]}", "deny")
    assert not (await decided(policy(ADMIN) + deny, request("/admin"), ext=provider)).allowed
    allow_nothing = policy("{}", "nothing")
    assert not (await decided(policy(ADMIN) + allow_nothing, request("/admin"), ext=provider)).allowed
    assert len(provider.requests) == 2


async def test_a_provider_denies_what_other_policies_allow_and_before_they_deny():
    for other in ("{rules: [{}]}", "{action: DENY, rules: [{}]}"):
        denied = await decided(policy(ADMIN) + policy(other, "other"), request("/admin"), ext=FakeProvider(DENIES))
        assert denied.reason.endswith("not today")


@pytest.mark.parametrize(("first", "second"), [(Answer(), Answer()), (DENIES, Answer()), (Answer(), DENIES)])
async def test_of_several_providers_all_must_let_a_request_pass(first, second):
    text = policy(ADMIN) + policy(ADMIN.replace("ext", "other"), "q")
    decision = await decided(text, request("/admin"), ext=FakeProvider(first), other=FakeProvider(second))
    assert decision.allowed == (not first.denial and not second.denial)


async def test_the_changes_of_several_providers_are_made_together():
    text = policy(ADMIN) + policy(ADMIN.replace("ext", "other"), "q")
    other = Changes(headers=(("x-tenant", "b"),), metadata=json.dumps({"tenant": "b"}))
    decision = await decided(
        text, request("/admin"), ext=FakeProvider(Answer(changes=CHANGES)), other=FakeProvider(Answer(changes=other))
    )
    assert isinstance(decision, ProvidedDecision)
    assert decision.changes.headers == (*CHANGES.headers, ("x-tenant", "b"))
    assert json.loads(decision.changes.metadata)["tenant"] == "b"
    assert json.loads(decision.changes.metadata)["user"] == "alice"


async def test_a_provider_is_asked_once_though_several_rules_name_it():
    provider = FakeProvider()
    text = policy(ADMIN) + policy(ADMIN, "again")
    assert (await decided(text, request("/admin"), ext=provider)).allowed
    assert len(provider.requests) == 1


@pytest.mark.parametrize("path", ["/x/..%2fadmin", "//admin", "/a/..;/admin"])
async def test_a_provider_is_asked_under_every_reading_of_a_path(path):
    provider = FakeProvider(DENIES)
    assert not (await decided(policy(ADMIN), request(path), ext=provider)).allowed
    assert provider.requests


async def test_a_provider_that_raises_denies():
    denied = await decided(policy(ADMIN), request("/admin"), ext=FakeProvider(error=RuntimeError("boom")))
    assert denied.reason == "internal error; Meshward's log has the cause"


async def test_a_rule_about_a_missing_attribute_asks():
    provider = FakeProvider(DENIES)
    text = policy("{action: CUSTOM, provider: {name: ext}, rules: [{when: [{key: connection.sni, values: [a]}]}]}")
    assert not (await decided(text, request(), ext=provider)).allowed


@pytest.mark.parametrize("header", ["authorization", "x-user"])
@pytest.mark.parametrize("has_token", [True, False])
async def test_a_rule_is_about_the_headers_that_the_client_sent(clock, header, has_token):
    """The token and what only it may set are taken out later, as by Istio, whose filter asks before `jwt_authn`."""
    condition = f"{{key: 'request.headers[{header}]', values: [eve, Bea*]}}"
    text = policy(f"{{action: CUSTOM, provider: {{name: ext}}, rules: [{{when: [{condition}]}}]}}")
    claims = {"outputClaimToHeaders": [{"header": "x-user", "claim": "sub"}]}
    provider = FakeProvider(DENIES)
    service = await policy_service(text, providers={"ext": provider}, clock=clock)
    await service.apply(request_authentication(jwt_rule(**claims)))
    tokens = {"authorization": (f"Bearer {token(clock.now())}",)} if has_token else {}
    found = service.check(request(headers={"x-user": ("eve",), **tokens}))
    decision = found if isinstance(found, Decision) else await found
    is_sent = has_token or header == "x-user"
    assert (decision.allowed, len(provider.requests)) == (not is_sent, int(is_sent))


async def test_a_policy_is_for_the_workloads_that_it_selects():
    provider = FakeProvider(DENIES)
    text = policy("{selector: {matchLabels: {app: cart}}, action: CUSTOM, provider: {name: ext}, rules: [{}]}")
    assert (await decided(text, request(workload=Workload("shop", (("app", "x"),))), ext=provider)).allowed
    assert not (await decided(text, request(workload=Workload("shop", (("app", "cart"),))), ext=provider)).allowed


async def test_a_policy_that_names_no_provider_of_the_settings_is_refused_with_its_place():
    service = await policy_service(providers={"ext": FakeProvider()})
    with pytest.raises(InvalidInputError) as caught:
        await service.apply(policy(ADMIN) + policy(ADMIN.replace("ext", "nobody"), "q"))
    (violation,) = caught.value.violations
    assert violation.path == "documents[1].spec.provider.name"
    assert "'nobody' is not a provider in the settings: use one of ext" in violation.problem


async def test_a_stored_policy_whose_provider_is_gone_from_the_settings_denies_what_it_matches():
    source = MemoryDocuments()
    before = Policies(source, providers={"ext": FakeProvider()})
    await before.refresh()
    await before.apply(policy(ADMIN))
    after = Policies(source)
    await after.refresh()
    denied = after.check(request("/admin"))
    assert isinstance(denied, Decision)
    assert not denied.allowed
    assert "it is not in the settings" in denied.reason
    assert after.check(request("/public")).allowed


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ("{action: CUSTOM, rules: [{}]}", "spec.provider.name"),
        ("{action: CUSTOM, provider: {}, rules: [{}]}", "spec.provider.name"),
        ("{action: CUSTOM, provider: {name: ''}, rules: [{}]}", "spec.provider.name"),
        ("{action: CUSTOM, provider: {name: x, more: 1}, rules: [{}]}", "spec.provider.more"),
        ("{action: CUSTOM, provider: {name: x}}", "spec.rules"),
        ("{action: CUSTOM, provider: {name: x}, rules: []}", "spec.rules"),
        ("{provider: {name: x}, rules: [{}]}", "spec.provider"),
        ("{action: DENY, provider: {name: x}, rules: [{}]}", "spec.provider"),
        (
            "{action: CUSTOM, provider: {name: x}, rules: [{from: [{source: {principals: [a]}}]}]}",
            "spec.rules[0].from[0].source",
        ),
        (
            "{action: CUSTOM, provider: {name: x}, rules: [{}, {from: [{source: {notNamespaces: [a]}}]}]}",
            "spec.rules[1].from[0].source",
        ),
        (
            "{action: CUSTOM, provider: {name: x}, rules: [{when: [{key: source.principal, values: [a]}]}]}",
            "spec.rules[0].when[0].key",
        ),
    ],
)
def test_what_is_wrong_in_a_custom_policy_is_refused_with_its_path(spec, path):
    with pytest.raises(InvalidInputError) as caught:
        POLICY_KIND.parse(parse_documents(policy(spec).encode()))
    assert [violation.path for violation in caught.value.violations] == [path]


async def answered(answer, expose=False):
    service = await policy_service(policy(ADMIN), providers={"ext": FakeProvider(answer)})
    rpc = AuthorizationRpc(service, expose_decision=expose)
    found = await rpc.Check(check_request("/admin").SerializeToString(), context())
    return external_auth_pb2.CheckResponse.FromString(found.SerializeToString())


def pairs(options):
    return [(each.header.key, each.header.value) for each in options]


async def test_what_a_provider_changes_in_an_allowed_request_is_in_the_response():
    response = await answered(Answer(changes=CHANGES))
    assert response.status.code == 0
    ok = response.ok_response
    assert pairs(ok.headers) == [("x-user", "alice"), ("x-group", "a")]
    assert pairs(ok.response_headers_to_add) == [("x-checked", "yes")]
    assert list(ok.headers_to_remove) == ["x-secret"]
    assert [(each.key, each.value) for each in ok.query_parameters_to_set] == [("tenant", "a")]
    assert list(ok.query_parameters_to_remove) == ["debug"]
    assert response.dynamic_metadata["user"] == "alice"
    assert response.dynamic_metadata["meshward.decision"] == "allow"


async def test_a_denial_has_the_providers_status_body_and_headers():
    changes = Changes(headers=(("location", "/login"),), status=302, body="log in", metadata='{"why": "login"}')
    response = await answered(Answer("no session", changes))
    assert response.status.code == 7
    denied = response.denied_response
    assert (denied.status.code, denied.body) == (302, "log in")
    assert pairs(denied.headers) == [("location", "/login")]
    assert response.dynamic_metadata["why"] == "login"
    assert response.dynamic_metadata["meshward.reason"].endswith("asks: no session")


async def test_a_provider_is_asked_about_a_connection_without_a_request():
    provider = FakeProvider(DENIES)
    text = policy("{action: CUSTOM, provider: {name: ext}, rules: [{}]}")
    rpc = AuthorizationRpc(await policy_service(text, providers={"ext": provider}))
    message = check_request()
    message.attributes.ClearField("request")
    found = await rpc.Check(message.SerializeToString(), context())
    assert found.status.code == 7
    document = input_document(provider.requests[0])
    assert document["attributes"]["source"]["address"]["socketAddress"]["address"] == "10.1.2.3"
    assert (document["parsed_path"], document["parsed_body"]) == ([""], None)


async def test_a_denial_without_a_body_has_ours():
    response = await answered(Answer("no session", Changes(headers=(("x-why", "no"),))))
    assert response.denied_response.status.code == 403
    assert response.denied_response.body.startswith("GET /admin was denied by the mesh's authorization policy.")
    assert pairs(response.denied_response.headers) == [("content-type", "text/plain; charset=utf-8"), ("x-why", "no")]


async def test_changes_that_cannot_be_written_deny():
    response = await answered(Answer(changes=Changes(headers=(("x-user", "\ud800"),))))
    assert response.status.code == 7
    assert "not UTF-8" in response.dynamic_metadata["meshward.reason"]


async def over_http(answer, method="GET", body=b"", path="/ext_authz/admin"):
    served = ServedAuthz(providers={"ext": (provider := FakeProvider(answer))})
    await served.service.refresh()
    await served.apply(policy(ADMIN))
    sent = []

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"a=1",
        "headers": [
            (b"host", b"shop"),
            (b"x-meshward-namespace", b"shop"),
            (b"content-type", b"application/json"),
            (b"x-user", b"alice"),
        ],
    }
    await HttpAuthorization(served.service)(scope, receive, send)
    start, rest = sent
    return start["status"], dict(start["headers"]), rest["body"], provider


async def test_over_http_an_allowed_request_has_the_changes_as_headers():
    status, headers, body, _ = await over_http(Answer(changes=CHANGES))
    assert status == 200
    assert (headers[b"x-user"], headers[b"x-checked"]) == (b"alice", b"yes")
    assert headers[b"x-envoy-auth-headers-to-remove"] == b"x-secret"
    assert body == b""


@pytest.mark.parametrize(("wanted", "status"), [(302, 302), (429, 429), (200, 403), (503, 403), (None, 403)])
async def test_over_http_a_denial_never_has_a_status_that_envoy_lets_pass(wanted, status):
    found = await over_http(Answer("no", Changes(status=wanted, body="own", headers=(("location", "/login"),))))
    assert found[0] == status
    assert found[1] == {b"location": b"/login"}
    assert found[2] == b"own"


async def test_over_http_a_provider_is_sent_the_request_with_its_body():
    *_, provider = await over_http(Answer(), "POST", b'{"a": 1}')
    attributes = provider.requests[0].attributes(EVERYTHING)
    assert attributes["request"]["http"] == {
        "method": "POST",
        "path": "/admin?a=1",
        "host": "shop",
        "headers": {"host": "shop", "content-type": "application/json", "x-user": "alice"},
        "body": '{"a": 1}',
    }


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("a-b_c.d~", "a-b_c.d~", "a-b_c.d~"),
        ("a&b=c", "a%26b%3Dc", "a%26b=c"),
        ("a b+c;d", "a%20b%2Bc%3Bd", "a%20b+c%3Bd"),
        ("\r\nx: y#?", "%0D%0Ax:%20y%23?", "%0D%0Ax:%20y%23?"),
        ("%20%zz%", "%20%25zz%25", "%20%25zz%25"),
        ('é"<>\\^`{|}', "%C3%A9%22%3C%3E%5C%5E%60%7B%7C%7D", "%C3%A9%22%3C%3E%5C%5E%60%7B%7C%7D"),
    ],
)
async def test_query_parameters_are_escaped_in_the_path(text, name, value):
    changes = Changes(query_to_set=((text, text),), query_to_remove=(text,))
    spec = policy("{action: CUSTOM, provider: {name: ext}, rules: [{}]}")
    rpc = AuthorizationRpc(await policy_service(spec, providers={"ext": lambda _request: Answer(changes=changes)}))
    answer = check_answer(rpc, check_request()).ok_response
    assert [(each.key, each.value) for each in answer.query_parameters_to_set] == [(name, value)]
    assert list(answer.query_parameters_to_remove) == [name]
