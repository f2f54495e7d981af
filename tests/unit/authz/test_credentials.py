"""Requests with API keys: whose they are, what becomes of the key, and what is answered to a bad one."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from app.authz.model import Joined, Workload
from app.authz.providers import Changes, ProvidedDecision
from app.authz.rpc.check import AuthorizationRpc
from app.authz.rpc.connections import METADATA_EXTENSION
from app.authz.rpc.metadata import JWT_FILTER
from app.authz.rules.api_keys import ApiKeySpec
from app.authz.rules.credentials import MAX_CREDENTIALS, CredentialProblem, Proven, Rejected
from app.authz.rules.opa import input_document
from app.authz.service import credentials
from app.core.decision import Outcome
from app.telemetry.metrics import Metrics
from tests.assets.jwts import token
from tests.assets.request_authentications import URL, credential_authentication, jwt_rule, request_authentication
from tests.fakes.authz import connection, policy, request, with_connection, workload
from tests.fakes.checks import Policies, check_answer, check_request, context, policy_service
from tests.fakes.clock import ManualClock
from tests.fakes.credentials import FakeVerifier
from tests.fakes.key_set_source import FakeKeySetSource
from tests.fakes.principals import OPERATOR
from tests.fakes.provider import FakeProvider

PARTNERS = policy("{rules: [{from: [{source: {requestPrincipals: ['meshward.io/api-keys/partner-*']}}]}]}")
KEYS = {URL: FakeKeySetSource()}
NAMESPACE = {"selector": {"matchLabels": {"tier": "gold"}}}


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def make(clock, metrics):
    return lambda text, **more: policy_service(text, clock=clock, metrics=metrics, **more)


async def key_of(service, subject="partner-a", lasts=None, **spec):
    return await service.api_keys.create(OPERATOR, ApiKeySpec(subject, **spec), lasts)


def sent(key=None, path="/", **headers):
    """A request with an API key in its header, if there is one, and other headers."""
    found = {name.replace("_", "-"): (value,) for name, value in headers.items()}
    if key is not None:
        found["x-api-key"] = (key,)
    return request(path.partition("?")[0], headers=found | {":path": (path,), ":authority": ("shop.example.org",)})


async def decided(service, asked):
    decision = service.check(asked)
    return decision if hasattr(decision, "outcome") else await decision


async def test_an_api_key_is_the_requests_principal_and_is_taken_out(make):
    service = await make(credential_authentication() + PARTNERS)
    created = await key_of(service)
    decision = service.check(sent(created.text))
    assert decision.allowed
    assert decision.changes == Changes(headers_to_remove=("x-api-key",))
    other = await key_of(service, "robot")
    assert not service.check(sent(other.text)).allowed


async def test_a_request_without_a_key_passes_and_policies_say_what_it_lacks(make):
    service = await make(credential_authentication())
    assert service.check(sent()).allowed
    assert not isinstance(service.check(sent()), ProvidedDecision)
    await service.apply(PARTNERS)
    assert service.check(sent()).reason.endswith("; the request has no credential in header x-api-key")
    assert service.check(sent("")).reason.endswith("; the request has no credential in header x-api-key")


@pytest.mark.parametrize(
    "key", ["x", "mwk_", "mwk_" + "A" * 43, "mwk_" + "A" * 44, "\udcff", "é" * 47, " mwk_ ", "a,b"]
)
async def test_an_unknown_key_is_answered_with_401_whatever_the_policies_say(make, key):
    service = await make(credential_authentication() + policy("{rules: [{}]}"))
    decision = service.check(sent(key))
    assert not decision.allowed
    assert decision.changes.status == 401
    assert decision.changes.body == "The credential is not valid"
    assert decision.changes.headers == (("www-authenticate", 'ApiKey realm="https://shop.example.org/"'),)
    assert len(key) < 4 or key not in repr(decision)


async def test_a_key_that_ended_was_revoked_or_is_for_others_is_answered_as_an_unknown_one_and_the_log_has_why(
    make, clock
):
    service = await make(credential_authentication({"apiKey": NAMESPACE}))
    gold = {"labels": (("tier", "gold"),)}
    revoked = await key_of(service, **gold)
    await service.api_keys.revoke(OPERATOR, revoked.key.id)
    ended = await key_of(service, lasts=timedelta(seconds=10), **gold)
    assert service.check(sent(ended.text)).allowed
    clock.advance(10)
    elsewhere = await key_of(service, namespace="other", **gold)
    silver = await key_of(service, labels=(("tier", "silver"),))
    for created, why in (
        (revoked, "was revoked"),
        (ended, "has expired"),
        (elsewhere, "is for workloads of the namespace other"),
        (silver, "has not the labels that are selected"),
    ):
        decision = service.check(sent(created.text))
        assert decision.changes.body == "The credential is not valid"
        assert decision.reason == f"the API key in header x-api-key is not accepted: the key {created.key.id} {why}"
    assert service.check(sent((await key_of(service, namespace="shop", **gold)).text)).allowed


async def test_claims_of_a_key_are_what_policies_find(make):
    rules = [
        {"from": [{"source": {"namespaces": ["web"]}}], "when": [{"key": key, "values": [value]}]}
        for key, value in (
            ("request.auth.claims[labels][tier]", "gold"),
            ("request.auth.claims[namespace]", "shop"),
            ("request.auth.principal", "meshward.io/api-keys/partner-b"),
        )
    ]
    for rule in rules:
        service = await make(credential_authentication() + policy(json.dumps({"rules": [rule]})))
        mine = await key_of(service, "partner-b", namespace="shop", labels=(("tier", "gold"),))
        assert service.check(sent(mine.text)).allowed
        assert not service.check(sent((await key_of(service)).text)).allowed


async def test_keys_are_found_in_headers_with_a_prefix_parameters_and_cookies_and_are_taken_out_of_each(make):
    places = {
        "fromHeaders": [{"name": "Authorization", "prefix": "ApiKey "}],
        "fromParams": ["api_key"],
        "fromCookies": ["key"],
    }
    service = await make(credential_authentication({"apiKey": {}, **places}) + PARTNERS)
    key = (await key_of(service)).text
    header = service.check(sent(authorization=f"APIKEY {key}"))
    assert header.changes == Changes(headers_to_remove=("authorization",))
    assert not service.check(sent(authorization=f"Bearer {key}")).allowed
    parameter = service.check(sent(path=f"/a?b=c&api%5fkey={key}"))
    assert parameter.changes == Changes(query_to_remove=("api%5fkey",))
    cookie = service.check(sent(cookie=f"a=b; key={key}; c=d"))
    assert cookie.changes == Changes(headers=(("cookie", "a=b; c=d"),))
    joined = service.check(request(headers={"cookie": Joined((f"a=b,key={key}; c=d",))}))
    assert joined.changes == Changes(headers=(("cookie", "a=b; c=d"),))
    alone = service.check(sent(cookie=f"key={key}"))
    assert alone.changes == Changes(headers_to_remove=("cookie",))


async def test_each_value_of_a_place_that_comes_twice_has_to_be_accepted(make):
    places = {"fromParams": ["k"], "fromCookies": ["c"]}
    service = await make(
        credential_authentication({"apiKey": {}, "forwardOriginalCredential": True, **places}) + PARTNERS
    )
    key = (await key_of(service)).text
    for bad in ("bad", ""):
        for first, second in ((key, bad), (bad, key)):
            assert service.check(sent(path=f"/a?k={first}&k={second}")).allowed == (not bad)
            assert service.check(sent(cookie=f"c={first}; c={second}")).allowed == (not bad)
    assert not service.check(sent(path="/a?k=&k=bad")).allowed
    assert not service.check(sent(cookie="c=; c=bad")).allowed


async def test_a_key_can_be_left_in_the_request(make):
    service = await make(credential_authentication({"apiKey": {}, "forwardOriginalCredential": True}) + PARTNERS)
    decision = service.check(sent((await key_of(service)).text))
    assert decision.allowed
    assert not getattr(decision, "changes", Changes()).headers_to_remove


async def test_every_credential_has_to_be_accepted(make):
    rule = {"apiKey": {}, "fromHeaders": [{"name": "x-api-key"}], "fromParams": ["k"]}
    service = await make(credential_authentication(rule) + PARTNERS)
    one, two = (await key_of(service)).text, (await key_of(service, "partner-b")).text
    assert service.check(sent(one, path=f"/?k={two}")).allowed
    for first, second in ((one, "bad"), ("bad", one)):
        assert service.check(sent(first, path=f"/?k={second}")).changes.status == 401
    doubled = sent(one)
    for keys in ((one, "bad"), ("bad", one)):
        assert not service.check(replace(doubled, headers={**doubled.headers, "x-api-key": keys})).allowed
    many = replace(doubled, headers={**doubled.headers, "x-api-key": (one,) * (MAX_CREDENTIALS + 1)})
    assert service.check(many).changes.body == "The request has too many credentials"


async def test_policies_judge_headers_without_the_key(make):
    leak = policy("{action: DENY, rules: [{when: [{key: 'request.headers[x-api-key]', values: ['*']}]}]}")
    service = await make(credential_authentication() + leak)
    assert service.check(sent((await key_of(service)).text)).allowed


async def test_a_jwt_says_who_it_is_and_the_key_beside_it_has_to_be_accepted(make, clock):
    users = policy("{rules: [{from: [{source: {requestPrincipals: ['*/alice']}}]}]}")
    service = await make(request_authentication(jwt_rule()) + credential_authentication() + users)
    key, jwt = (await key_of(service)).text, f"Bearer {token(clock.now(), sub='alice')}"
    both = service.check(sent(key, authorization=jwt))
    assert both.allowed
    assert both.changes.headers_to_remove == ("authorization", "x-api-key")
    assert service.check(sent(authorization=jwt)).allowed
    assert not service.check(sent(key)).allowed
    assert service.check(sent("bad", authorization=jwt)).changes.status == 401
    assert service.check(sent(key, authorization="Bearer bad")).changes.body.startswith("Jwt")
    note = service.check(sent()).reason
    assert note.endswith(
        "no token in header authorization, parameter access_token; the request has no credential in header x-api-key"
    )


async def test_a_jwt_cannot_pass_for_an_api_key(make, clock):
    service = await make(request_authentication(jwt_rule(issuer="", jwksUri=URL)) + PARTNERS, key_sets=KEYS)
    assert service.check(sent(authorization=f"Bearer {token(clock.now(), iss='https://other')}")).reason.startswith(
        "no rule"
    )
    forged = token(clock.now(), iss="meshward.io/api-keys", sub="partner-a")
    assert service.check(sent(authorization=f"Bearer {forged}")).changes.body == "Jwt issuer is not configured"


async def test_documents_are_for_their_workloads_and_for_http(make):
    service = await make(credential_authentication(selector={"matchLabels": {"app": "shop"}}))
    assert not service.check(sent("bad")).allowed
    assert service.check(with_connection(sent("bad"), workload=workload("shop", app="other"))).allowed
    assert service.check(with_connection(sent("bad"), workload=workload("other", app="shop"))).allowed
    unlabelled = service.check(with_connection(sent("bad"), workload=Workload("shop")))
    assert "labels are missing" in unlabelled.reason
    assert service.check(connection()).allowed
    preflight = replace(sent("bad", origin="https://a", access_control_request_method="GET"), method="OPTIONS")
    assert service.check(preflight).allowed


async def test_before_documents_and_keys_are_loaded_nothing_passes_that_needs_them(make, clock):
    service = await make(credential_authentication() + PARTNERS)
    key = (await key_of(service)).text
    service.api_keys._by_digest = None
    denied = service.check(sent(key))
    assert denied.changes.status == 401
    assert denied.changes.body == "The credential cannot be verified now"
    assert "not loaded yet" in denied.reason
    starting = Policies(clock=clock)
    for store in (starting.requests.documents, starting.peers.documents, starting.documents):
        await store.refresh()
    assert starting.check(sent()).reason == "the credential authentications are not loaded yet"


async def test_a_revoked_key_is_refused_by_the_next_check_and_a_document_that_is_deleted_asks_for_nothing(make):
    service = await make(credential_authentication())
    created = await key_of(service)
    for _ in range(2):
        assert service.check(sent(created.text)).allowed
    await service.api_keys.revoke(OPERATOR, created.key.id)
    assert not service.check(sent(created.text)).allowed
    (key,) = service.credentials.documents.snapshot.documents
    await service.credentials.documents.delete(OPERATOR, key)
    assert service.check(sent(created.text)).allowed


async def test_where_a_place_is_withheld_it_is_not_known_whether_there_is_a_key(make):
    nobody = policy("{action: DENY, rules: [{from: [{source: {notRequestPrincipals: ['*']}}]}]}")
    service = await make(credential_authentication() + nobody)
    withheld = replace(sent(), forwarded_headers=frozenset({"authorization"}))
    assert not service.check(withheld).allowed
    service = await make(credential_authentication() + PARTNERS)
    assert not service.check(withheld).allowed


async def test_failures_of_one_client_are_counted_and_answered_with_429_and_its_good_key_still_passes(
    make, clock, metrics
):
    service = await make(credential_authentication() + PARTNERS)
    key = (await key_of(service)).text
    statuses = [service.check(sent("bad")).changes.status for _ in range(credentials.FAILURES.burst + 1)]
    assert statuses == [401] * credentials.FAILURES.burst + [429]
    limited = service.check(sent("bad"))
    assert limited.changes.headers == (("retry-after", "1"),)
    assert service.check(sent(key)).allowed
    others = replace(sent("bad"), remote_ip=request(remote_ip="10.7.7.7").remote_ip)
    assert service.check(others).changes.status == 401
    clock.advance(1)
    assert service.check(sent("bad")).changes.status == 401
    rendered = metrics.render().decode()
    assert f'meshward_authz_credentials_total{{result="invalid"}} {credentials.FAILURES.burst + 2}.0' in rendered
    assert 'meshward_authz_credentials_total{result="limited"} 2.0' in rendered


async def test_a_source_that_has_to_be_asked_is_awaited_and_asked_once_for_each_credential(make):
    verifier = FakeVerifier({"good": Proven({"iss": "meshward.io/api-keys", "sub": "partner-x"})})
    service = await make(credential_authentication() + PARTNERS, sources=verifier)
    decision = await decided(service, sent("good"))
    assert decision.outcome is Outcome.ALLOW
    assert not (await decided(service, sent("other"))).allowed
    assert verifier.asked == ["good", "other"]


async def test_of_a_client_that_fails_too_often_no_source_is_asked_any_more(make, clock):
    verifier = FakeVerifier({})
    service = await make(credential_authentication(), sources=verifier)
    for _ in range(credentials.FAILURES.burst):
        assert (await decided(service, sent("x"))).changes.status == 401
    assert (await decided(service, sent("x"))).changes.status == 429
    assert len(verifier.asked) == credentials.FAILURES.burst
    clock.advance(1)
    assert (await decided(service, sent("x"))).changes.status == 401


async def test_a_source_that_is_away_is_no_failure_of_the_client(make):
    away = Rejected(CredentialProblem.UNVERIFIED, "the server is away")
    verifier = FakeVerifier({"x": away})
    service = await make(credential_authentication(), sources=verifier)
    for _ in range(credentials.FAILURES.burst + 1):
        denied = await decided(service, sent("x"))
        assert denied.changes.status == 401
    assert denied.changes.body == "The credential cannot be verified now"
    assert denied.reason.endswith("is not accepted: the server is away")


async def test_a_verifier_that_raises_denies(make):
    verifier = FakeVerifier({"x": RuntimeError("secret text")})
    service = await make(credential_authentication(), sources=verifier)
    denied = await decided(service, sent("x"))
    assert not denied.allowed
    assert "secret text" not in denied.reason


async def test_one_of_several_sources_of_a_place_has_to_accept(make):
    rules = [{"apiKey": {"selector": {"matchLabels": {"tier": tier}}}} for tier in ("gold", "silver")]
    service = await make(credential_authentication(*rules) + PARTNERS)
    for tier, passes in (("gold", True), ("silver", True), ("bronze", False)):
        key = (await key_of(service, labels=(("tier", tier),))).text
        assert service.check(sent(key)).allowed is passes


async def test_a_provider_gets_the_request_without_the_credentials_that_are_taken_out(make):
    places = {"fromHeaders": [{"name": "x-api-key"}], "fromParams": ["k"], "fromCookies": ["c"]}
    provider = FakeProvider()
    custom = policy("{action: CUSTOM, provider: {name: mine}, rules: [{}]}")
    service = await make(custom, providers={"mine": provider})
    key = (await key_of(service)).text
    rpc = AuthorizationRpc(service, expose_decision=False)
    raw = [(":path", b"/"), ("x-api-key", key.encode()), ("cookie", f"a=b; c={key}".encode()), ("x-b", b"1")]
    for headers in ({"headers": {"x-api-key": key, "cookie": f"a=b; c={key}"}}, {"raw_headers": raw}):
        for forward in (False, True):
            rule = {"apiKey": {}, **places, "forwardOriginalCredential": forward}
            await service.apply(credential_authentication(rule))
            check = check_request(f"/a?x=1&k={key}#f", **headers)
            assert (await rpc.Check(check.SerializeToString(), context())).SerializeToString()
            document = input_document(provider.requests.pop())
            assert (key in str(document)) is forward
            http = document["attributes"]["request"]["http"]
            if not forward:
                assert http["path"] == "/a?x=1#f"
                assert http["headers"]["cookie"] == "a=b"


async def test_a_cookie_that_an_answer_cannot_have_is_denied_with_the_reason(make, capsys):
    """Envoy takes texts alone, so that cookies in other encodings could not be sent on without the key."""
    service = await make(credential_authentication({"apiKey": {}, "fromCookies": ["c"]}))
    rpc = AuthorizationRpc(service, expose_decision=True)
    key = (await key_of(service)).text.encode()
    for cookies, status in ((b"a=\xc3\xa4; c=" + key, 0), (b"a=\xe4; c=" + key, 7)):
        answer = check_answer(rpc, check_request(raw_headers=[(":path", b"/"), ("cookie", cookies)]))
        assert answer.status.code == status
    assert "not UTF-8" in answer.denied_response.body
    assert "check_failed" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(("issuer", "believed"), [("https://other", True), ("meshward.io/api-keys", False)])
async def test_a_token_that_envoy_verified_cannot_pass_for_an_api_key_either(make, issuer, believed):
    rpc = AuthorizationRpc(await make(PARTNERS.replace("meshward.io/api-keys/partner-*", "*")), expose_decision=False)
    check = check_request(extensions={METADATA_EXTENSION: JWT_FILTER})
    check.attributes.metadata_context.filter_metadata[JWT_FILTER].update(
        {"payload": {"iss": issuer, "sub": "partner-a"}}
    )
    assert (check_answer(rpc, check).status.code == 0) is believed
