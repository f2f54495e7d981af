"""Requests with tokens: what is asked of them before policies, and what becomes of them."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from app.authz.model import Cause, Joined, Workload
from app.authz.providers import Changes, ProvidedDecision
from app.authz.rules.authentication import TokenRules, header_value
from app.authz.service import authentication
from app.core.errors import UnavailableError
from app.issuers.key_sets import PACE
from app.spiffe.jwt import LEEWAY
from tests.assets.jwts import EC_KEY, ISSUER, RSA_KEY, STRANGER, hostile, jwks, token
from tests.assets.request_authentications import URL, jwt_rule, request_authentication
from tests.fakes.authz import policy, request, with_connection
from tests.fakes.checks import Policies, policy_service
from tests.fakes.clock import ManualClock
from tests.fakes.key_set_source import FakeKeySetSource

HOSTILE = hostile(ManualClock().now())
# What proves a service account's identity and may be in any other token, or the other way round.
FINE_FOR_A_REQUEST = {
    "no end",
    "issued later",
    "no audience",
    "an empty audience",
    "another audience",
    "too many audiences",
    "another type",
    *(name for name in HOSTILE if "subject" in name or name == "a user"),
}
NEEDS_TOKEN = policy("{rules: [{from: [{source: {requestPrincipals: ['*']}}]}]}")
AWAY = UnavailableError("the server is away")


@pytest.fixture
def source():
    return FakeKeySetSource()


@pytest.fixture
def make(clock, metrics, source):
    """A service with documents, which has the keys at URL from `source`."""
    return lambda text: policy_service(text, clock=clock, metrics=metrics, key_sets={URL: source, ISSUER: source})


def sent(text=None, path="/", **headers):
    """A request with a token as a bearer's, if there is one, and other headers."""
    found = {name.replace("_", "-"): (value,) for name, value in headers.items()}
    if text is not None:
        found["authorization"] = (f"Bearer {text}",)
    return request(path.partition("?")[0], headers=found | {":path": (path,), ":authority": ("shop.example.org",)})


def with_keys_at_a_url(**fields):
    return request_authentication(jwt_rule(jwksUri=URL, **fields))


async def decided(service, sent_request):
    decision = service.check(sent_request)
    return decision if hasattr(decision, "outcome") else await decision


async def test_a_request_without_a_token_passes_and_policies_say_what_it_lacks(make):
    service = await make(request_authentication())
    assert service.check(sent()).allowed
    await service.apply(NEEDS_TOKEN)
    denied = service.check(sent())
    assert denied.reason.endswith("; the request has no token in header authorization, parameter access_token")


async def test_an_accepted_token_is_the_requests_principal_and_is_taken_out(make, clock):
    service = await make(request_authentication() + NEEDS_TOKEN)
    decision = service.check(sent(token(clock.now())))
    assert decision.allowed
    assert decision.changes == Changes(headers_to_remove=("authorization",))
    kept = await make(request_authentication(jwt_rule(forwardOriginalToken=True)) + NEEDS_TOKEN)
    assert not isinstance(kept.check(sent(token(clock.now()))), ProvidedDecision)


@pytest.mark.parametrize(("text", "name"), [(text, name) for name, (text, _) in HOSTILE.items()], ids=list(HOSTILE))
async def test_a_token_that_proves_nothing_is_answered_with_401_whatever_the_policies_say(make, text, name, clock):
    service = await make(request_authentication() + policy("{rules: [{}]}"))
    decision = service.check(sent(text))
    if name in FINE_FOR_A_REQUEST:
        assert decision.allowed
        return
    assert not decision.allowed
    assert decision.changes.status == 401
    assert decision.changes.headers == (
        ("www-authenticate", 'Bearer realm="https://shop.example.org/", error="invalid_token"'),
    )
    assert decision.changes.body in decision.reason
    assert text not in repr(decision)


async def test_a_wrong_audience_is_answered_with_403(make, clock):
    service = await make(request_authentication(jwt_rule(audiences=["https://shop.example.org"])))
    denied = service.check(sent(token(clock.now())))
    assert (denied.changes.status, denied.changes.body) == (403, "Audiences in Jwt are not allowed")
    assert service.check(sent(token(clock.now(), aud="shop.example.org/"))).allowed


async def test_one_bad_token_beside_a_good_one_is_answered_with_401(make, clock):
    service = await make(request_authentication())
    good, old = token(clock.now()), token(clock.now() - timedelta(hours=2))
    for first, second in ((good, old), (old, good)):
        assert service.check(sent(first, path=f"/?access_token={second}")).changes.body == "Jwt is expired"
    both = service.check(sent(good, path=f"/?access_token={good}"))
    assert both.changes == Changes(headers_to_remove=("authorization",), query_to_remove=("access_token",))


async def test_a_token_in_one_of_several_cookie_headers_is_found_where_the_proxy_joined_them(make, clock):
    service = await make(request_authentication(jwt_rule(fromCookies=["jwt"])))
    for text, allowed in ((token(clock.now()), True), (token(clock.now(), key=STRANGER), False)):
        for joined in (f"a=1,jwt={text}", f"jwt={text},a=1", f"a=1; b=2,jwt={text}"):
            assert service.check(request(headers={"cookie": Joined((joined,))})).allowed is allowed


async def test_claims_go_into_headers_that_a_client_cannot_set(make, clock):
    outputs = [{"header": "X-User", "claim": "sub"}, {"header": "x-level", "claim": "level"}]
    rule = jwt_rule(outputClaimToHeaders=outputs, outputPayloadToHeader="x-payload")
    service = await make(request_authentication(rule))
    text = token(clock.now(), sub="alice")
    changes = service.check(sent(text, x_user="root", x_level="9")).changes
    assert changes.headers == (("x-payload", text.split(".")[1]), ("x-user", "alice"))
    assert changes.headers_to_remove == ("authorization", "x-level")
    forged = service.check(sent(x_user="root"))
    assert forged.changes.headers_to_remove == ("x-level", "x-payload", "x-user")
    assert not isinstance(service.check(sent()), ProvidedDecision)
    preflight = sent(x_user="root", origin="https://a", access_control_request_method="GET")
    assert "x-user" in service.check(replace(preflight, method="OPTIONS")).changes.headers_to_remove


async def test_policies_judge_the_headers_of_the_token_and_never_the_clients(make, clock):
    rule = jwt_rule(outputClaimToHeaders=[{"header": "x-role", "claim": "role"}])
    admins = policy("{rules: [{when: [{key: 'request.headers[x-role]', values: [admin]}]}]}")
    service = await make(request_authentication(rule) + admins)
    assert service.check(sent(token(clock.now(), role="admin"))).allowed
    assert not service.check(sent(x_role="admin")).allowed
    assert not service.check(sent(token(clock.now()), x_role="admin")).allowed
    assert not service.check(sent(token(clock.now(), role="user"), x_role="admin")).allowed
    assert not service.check(sent()).allowed


async def test_headers_of_other_rules_are_taken_out_as_well(make, clock):
    rules = [
        jwt_rule(outputClaimToHeaders=[{"header": "x-a", "claim": "sub"}]),
        jwt_rule(issuer="other", outputClaimToHeaders=[{"header": "x-b", "claim": "sub"}]),
    ]
    service = await make(request_authentication(*rules))
    changes = service.check(sent(token(clock.now(), sub="alice"), x_b="root")).changes
    assert (changes.headers, changes.headers_to_remove) == ((("x-a", "alice"),), ("authorization", "x-b"))


async def test_over_http_a_request_that_may_have_a_forged_header_is_denied(make, clock):
    service = await make(request_authentication(jwt_rule(outputPayloadToHeader="x-payload")))
    text = token(clock.now())
    assert service.check(replace(sent(text), over_http=True)).allowed
    assert not service.check(replace(sent(text, x_payload="root"), over_http=True)).allowed
    unseen = replace(sent(text), over_http=True, forwarded_headers=frozenset({"authorization"}))
    assert "x-payload" in service.check(unseen).reason


async def test_where_the_proxy_withholds_the_place_of_a_token_it_is_not_known_to_be_missing(make):
    rule = jwt_rule(fromHeaders=[{"name": "x-token"}])
    deny = policy("{action: DENY, rules: [{from: [{source: {requestPrincipals: [mallory]}}]}]}")
    service = await make(request_authentication(rule) + deny)
    assert service.check(sent()).allowed
    assert not service.check(replace(sent(), forwarded_headers=frozenset({"x-other"}))).allowed


@pytest.mark.parametrize(
    ("value", "text"),
    [("a", "a"), (3, "3"), (-1, "-1.000000"), (1.5, "1.500000"), (True, "true"), (["a"], "WyJhIl0="), (None, "")],
)
def test_a_claim_is_written_as_envoy_writes_it(value, text):
    assert header_value({"a": {"b": value}}, "a.b") == text


@pytest.mark.parametrize("value", ["a\r\nx-admin: 1", "a\nb", "a\x00", "\x7f"])
def test_a_claim_that_would_end_the_header_is_not_written(value):
    assert header_value({"a": value}, "a") == ""


async def test_a_cors_preflight_is_not_asked_for_a_token(make, clock):
    service = await make(request_authentication())
    old = token(clock.now() - timedelta(hours=2))
    plain = replace(sent(old), method="OPTIONS")
    assert not service.check(plain).allowed
    preflight = replace(sent(old, origin="https://a", access_control_request_method="GET"), method="OPTIONS")
    assert service.check(preflight).allowed


async def test_documents_are_for_their_namespace_or_everywhere_and_for_their_labels(make, clock):
    bad = sent("x")
    service = await make(request_authentication(namespace="other"))
    assert service.check(bad).allowed
    await service.apply(request_authentication(selector={"matchLabels": {"app": "shop"}}))
    assert not service.check(bad).allowed
    assert service.check(with_connection(bad, workload=Workload("shop", (("app", "x"),)))).allowed
    unlabelled = service.check(with_connection(bad, workload=Workload("shop")))
    assert "labels are missing" in unlabelled.reason
    everywhere = await make(request_authentication(namespace="istio-system"))
    assert not everywhere.check(bad).allowed


async def test_several_rules_accept_tokens_of_several_issuers(make, clock):
    service = await make(request_authentication() + request_authentication(jwt_rule(issuer="other"), name="s"))
    assert service.check(sent(token(clock.now()))).allowed
    assert service.check(sent(token(clock.now(), iss="other"))).allowed
    assert service.check(sent(token(clock.now(), iss="third"))).changes.body == "Jwt issuer is not configured"


async def test_keys_are_fetched_when_a_document_comes_and_a_check_waits_for_the_first(make, source, clock):
    source.let_go.clear()
    service = await make(with_keys_at_a_url())
    waiting = service.check(sent(token(clock.now())))
    assert not hasattr(waiting, "outcome")
    assert service.check(sent()).allowed  # others are not kept waiting
    asyncio.get_running_loop().call_soon(source.let_go.set)
    assert (await waiting).allowed
    assert service.check(sent(token(clock.now(), sub="b"))).allowed
    assert source.fetched == 1


async def test_keys_that_cannot_be_had_refuse_every_token_and_are_tried_again(make, source, clock):
    source.failure = AWAY
    service = await make(with_keys_at_a_url())
    for _ in range(3):
        denied = await decided(service, sent(token(clock.now())))
        assert (denied.changes.status, denied.changes.body) == (401, "Jwks remote fetch is failed")
    assert source.fetched == 1
    source.failure = None
    clock.advance(PACE.retry)
    with pytest.raises(UnavailableError, match="the server is away"):
        await service.key_sets.maintain()
    assert (await decided(service, sent(token(clock.now())))).allowed
    await service.key_sets.maintain()


async def test_the_last_good_keys_decide_while_their_server_is_away(make, source, clock):
    service = await make(with_keys_at_a_url())
    assert (await decided(service, sent(token(clock.now())))).allowed
    source.failure = AWAY
    clock.advance(PACE.refresh)
    await service.key_sets.maintain()
    await service.key_sets.attempted(next(iter(service.requests.documents.snapshot.index.documents)).rules[0].keys)
    assert service.check(sent(token(clock.now(), sub="b"))).allowed
    clock.advance(PACE.max_stale)
    assert not (await decided(service, sent(token(clock.now())))).allowed


async def test_a_token_with_an_unknown_key_has_them_fetched_again_but_is_not_waited_for(make, source, clock):
    source.content = jwks({"rsa": RSA_KEY})
    service = await make(with_keys_at_a_url())
    new = token(clock.now(), key=EC_KEY, kid="ec", algorithm="ES256")
    assert not (await decided(service, sent(new))).allowed
    source.content = jwks()
    clock.advance(PACE.retry)
    assert service.check(sent(new)).changes.body.startswith("Jwks doesn't have key")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert source.fetched == 2
    assert service.check(sent(new)).allowed


async def test_a_token_that_was_verified_is_not_verified_again_until_it_ends(make, clock, metrics, monkeypatch):
    service = await make(request_authentication() + NEEDS_TOKEN)
    text = token(clock.now())
    assert service.check(sent(text)).allowed
    monkeypatch.setattr(TokenRules, "judge", None)
    assert service.check(sent(text)).allowed
    assert [metrics.authentications.value(result) for result in ("verified", "kept")] == [1, 1]
    monkeypatch.undo()
    clock.advance((timedelta(hours=1) + LEEWAY).total_seconds() + 1)
    assert service.check(sent(text)).changes.body == "Jwt is expired"


async def test_what_was_verified_is_forgotten_with_the_documents_and_the_keys(make, source, clock):
    service = await make(with_keys_at_a_url())
    text = token(clock.now())
    assert (await decided(service, sent(text))).allowed
    source.content = jwks({"ec": EC_KEY})
    clock.advance(PACE.refresh)
    await service.key_sets.maintain()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not service.check(sent(text)).allowed
    await service.apply(request_authentication())
    assert service.check(sent(text)).allowed
    await service.apply(request_authentication(jwt_rule(audiences=["other"])))
    assert not service.check(sent(text)).allowed


async def test_as_many_tokens_are_kept_as_there_is_room_for(make, clock, metrics, monkeypatch):
    monkeypatch.setattr(authentication, "MAX_KEPT_TOKENS", 2)
    service = await make(request_authentication())
    texts = [token(clock.now(), sub=name) for name in "abc"]
    for text in (*texts, texts[0], texts[2]):
        assert service.check(sent(text)).allowed
    assert [metrics.authentications.value(result) for result in ("verified", "kept")] == [4, 1]


async def test_a_strangers_token_is_never_kept(make, clock, metrics):
    service = await make(request_authentication())
    for _ in range(2):
        assert not service.check(sent(token(clock.now(), key=STRANGER))).allowed
    assert metrics.authentications.value("signature") == 2
    assert metrics.decisions.value("deny", Cause.UNAUTHENTICATED.value) == 2


async def test_nothing_passes_before_the_documents_were_read(clock):
    service = Policies(clock=clock)
    await service.documents.refresh()
    reasons = [service.check(sent()).reason]
    for each in (service.peers, service.requests, service.credentials):
        await each.documents.refresh()
        reasons.append(service.check(sent()).reason)
    assert reasons == [
        "the peer authentications are not loaded yet",
        "the request authentications are not loaded yet",
        "the credential authentications are not loaded yet",
        "no ALLOW policy applies to the workload",
    ]


async def test_the_log_has_the_principal_and_never_the_token(make, clock, capsys):
    service = await make(request_authentication() + policy("{action: DENY, rules: [{}]}"))
    service._decisions._denied = True
    text = token(clock.now(), sub="alice")
    assert not service.check(sent(text, path=f"/?access_token={text}")).allowed
    written = capsys.readouterr().out
    assert f"{ISSUER}/alice" in written
    assert text not in written
