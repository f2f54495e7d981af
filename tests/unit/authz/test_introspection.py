"""Tokens that an authorization server is asked about: what is believed, what is remembered, and what is refused."""

import asyncio
import json
import math

import pytest

from app.authz.rules.credentials import CredentialProblem, Proven, Rejected
from app.authz.rules.introspection import for_audiences, read_answer
from app.authz.service.introspection import Introspection
from app.core.errors import UnavailableError
from tests.assets.jwts import token
from tests.assets.request_authentications import credential_authentication
from tests.fakes.authz import policy, request
from tests.fakes.checks import policy_service
from tests.fakes.introspection import FakeEndpoint
from tests.fakes.service_accounts import Reviewer

ISSUER = "https://idp.example.org"
NOW = 1_000_000.0
RULE = {"oauth2Introspection": {"authorizationServer": "idp", "audiences": ["shop"]}}
USERS = policy(f"{{rules: [{{from: [{{source: {{requestPrincipals: ['{ISSUER}/alice']}}}}]}}]}}")


def read(issuer=ISSUER, **claims):
    outcome, _ = read_answer(json.dumps({"active": True, "sub": "alice"} | claims).encode(), issuer, NOW)
    return outcome


def claims_of(outcome):
    assert isinstance(outcome, Proven), outcome
    return dict(outcome.claims)


def test_the_claims_of_an_active_token_are_those_of_the_answer_without_active():
    assert claims_of(read(aud=["shop"], scope="read write", client_id="cli", exp=NOW + 60)) == {
        "sub": "alice",
        "iss": ISSUER,
        "aud": ["shop"],
        "scope": ["read", "write"],
        "client_id": "cli",
        "exp": NOW + 60,
    }
    assert claims_of(read("", iss=ISSUER)) == {"sub": "alice", "iss": ISSUER}
    assert claims_of(read("")) == {"sub": "alice"}
    assert claims_of(read(iss=None)) == {"sub": "alice", "iss": ISSUER}
    assert read_answer(b'{"active": true, "exp": 2e6}', "", NOW)[1] == 2e6


@pytest.mark.parametrize(
    "claims",
    [
        {"active": False},
        {"exp": NOW},
        {"exp": NOW - 1},
        {"exp": "tomorrow"},
        {"exp": True},
        {"nbf": NOW + 61},
        {"nbf": None},
        {"cnf": {"x5t#S256": "a"}},
        {"cnf": None},
        {"iss": "https://other"},
        {"iss": 1},
        {"sub": 1},
        {"sub": None},
    ],
)
def test_what_an_answer_does_not_prove_is_refused(claims):
    outcome = read(**claims)
    assert isinstance(outcome, Rejected)
    assert outcome.problem is CredentialProblem.INVALID


@pytest.mark.parametrize("issuer", ["meshward.io/api-keys", "meshward.io/kubernetes/main"])
def test_no_server_can_make_principals_of_other_sources(issuer):
    assert isinstance(read("", iss=issuer), Rejected)
    assert isinstance(read(issuer), Rejected)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"<html>",
        b"{}",
        b'{"active": 1}',
        b'{"active": "true"}',
        b'{"active": false, "active": true}',
        b"[" * 100_000,
        b'{"active": true, "exp": NaN}',
        b"\xff",
    ],
)
def test_what_is_no_answer_accepts_nothing_and_is_not_remembered(content):
    outcome, ends = read_answer(content, ISSUER, NOW)
    assert isinstance(outcome, Rejected)
    assert outcome.problem is CredentialProblem.UNVERIFIED
    assert ends <= NOW


@pytest.mark.parametrize(
    ("audience", "wanted", "fits"),
    [
        ("shop", ("shop",), True),
        (["a", "shop"], ("shop", "b"), True),
        (["a"], ("shop",), False),
        ("shop2", ("shop",), False),
        (None, ("shop",), False),
        (["a"], (), True),
    ],
)
def test_audiences(audience, wanted, fits):
    outcome = for_audiences(Proven({"aud": audience}), wanted)
    assert isinstance(outcome, Proven) is fits


@pytest.fixture
def endpoint():
    return FakeEndpoint(good={"sub": "alice", "aud": "shop"}, other={"sub": "alice", "aud": "bank"})


@pytest.fixture
def introspection(endpoint, clock):
    return Introspection(endpoint, ISSUER, 60.0, clock)


@pytest.fixture
def make(introspection, clock, metrics):
    return lambda text: policy_service(text, clock=clock, metrics=metrics, servers={"idp": introspection})


async def decided(service, text):
    decision = service.check(request(headers={"authorization": (f"Bearer {text}",)}))
    return decision if hasattr(decision, "outcome") else await decision


async def test_an_active_token_is_the_requests_principal_and_a_check_waits_once_for_it(make, endpoint):
    service = await make(credential_authentication(RULE) + USERS)
    decision = await decided(service, "good")
    assert decision.allowed
    assert decision.changes.headers_to_remove == ("authorization",)
    again = service.check(request(headers={"authorization": ("Bearer good",)}))
    assert again.allowed
    assert endpoint.asked == ["good"]
    for bad in ("other", "unknown"):
        denied = await decided(service, bad)
        assert (denied.changes.status, denied.changes.body) == (401, "The credential is not valid")
        assert denied.changes.headers[0][1].startswith("Bearer realm=")
        assert bad not in repr(denied).replace("another", "")


async def test_a_token_is_asked_about_once_for_all_who_show_it_and_again_when_its_time_is_over(
    introspection, endpoint, clock
):
    endpoint.let_go.clear()
    asking = [asyncio.create_task(introspection.ask("good", ())) for _ in range(20)]
    await asyncio.sleep(0)
    asking[0].cancel()
    endpoint.let_go.set()
    outcomes = await asyncio.gather(*asking[1:])
    assert len({id(each) for each in outcomes}) == 1
    assert introspection.known("good", ()) is outcomes[0]
    clock.advance(60)
    assert introspection.known("good", ()) is None
    await introspection.ask("good", ())
    assert endpoint.asked == ["good", "good"]


async def test_nothing_is_remembered_beyond_the_end_of_a_token(introspection, endpoint, clock):
    endpoint.answers["short"] = {"sub": "alice", "exp": clock.now().timestamp() + 5}
    assert isinstance(await introspection.ask("short", ()), Proven)
    clock.advance(5)
    assert introspection.known("short", ()) is None
    assert isinstance(await introspection.ask("short", ()), Rejected)


async def test_a_server_that_is_away_denies_and_nothing_of_it_is_remembered(make, endpoint):
    endpoint.answers["good"] = UnavailableError("the authorization server idp cannot be asked: it answered 500")
    service = await make(credential_authentication(RULE))
    denied = await decided(service, "good")
    assert (denied.changes.status, denied.changes.body) == (401, "The credential cannot be verified now")
    assert denied.reason.endswith("is not accepted: the authorization server idp cannot be asked: it answered 500")
    endpoint.answers["good"] = {"sub": "alice", "aud": "shop"}
    assert (await decided(service, "good")).allowed


async def test_a_server_that_is_no_longer_in_the_settings_accepts_nothing(introspection, clock):
    service = await policy_service("", clock=clock, servers={"idp": introspection})
    await service.apply(credential_authentication(RULE))
    gone = await policy_service("", clock=clock)
    gone.credentials.documents._source = service.credentials.documents._source
    await gone.credentials.documents.refresh()
    denied = await decided(gone, "good")
    assert not denied.allowed
    assert "'idp' is not in the settings" in denied.reason


REVIEWED = {"kubernetesTokenReview": {"audiences": ["shop"]}}
CARTS = policy(
    "{rules: [{from: [{source: {requestPrincipals: ['meshward.io/kubernetes/main/system:serviceaccount:shop:cart']}}], "
    "when: [{key: 'request.auth.claims[kubernetes.io][namespace]', values: [shop]}, "
    "{key: request.auth.audiences, values: [shop]}]}]}"
)


async def test_a_service_accounts_token_that_its_cluster_reviews_is_the_requests_principal(clock):
    good = token(clock.now(), aud=["shop"])
    reviewer = Reviewer("main", "shop", "cart", good)
    service = await policy_service(credential_authentication(), clock=clock, reviewers={"main": reviewer})
    await service.apply(credential_authentication(REVIEWED) + CARTS)
    for _ in range(2):
        assert (await decided(service, good)).allowed
    assert reviewer.asked == [(good, ("shop",))]
    refused = await decided(service, token(clock.now(), sub="other"))
    assert (refused.changes.status, refused.changes.body) == (401, "The credential is not valid")
    for malformed in ("opaque", "eyJh.a.b"):
        assert not (await decided(service, malformed)).allowed
    assert len(reviewer.asked) == 2
    reviewer.away = True
    away = await decided(service, token(clock.now(), sub="another"))
    assert (away.changes.status, away.changes.body) == (401, "The credential cannot be verified now")


async def test_a_token_without_an_audience_is_shown_to_no_api_server_which_would_take_it_for_any(clock):
    legacy = token(clock.now(), aud=None)
    reviewer = Reviewer("main", "shop", "cart", legacy)
    service = await policy_service("", clock=clock, reviewers={"main": reviewer})
    await service.apply(credential_authentication(REVIEWED))
    denied = await decided(service, legacy)
    assert denied.changes.status == 401
    assert "has no audience" in denied.reason
    assert reviewer.asked == []


def test_times_are_infinite_only_where_there_are_none():
    assert read_answer(b'{"active": true}', "", NOW)[1] == math.inf
