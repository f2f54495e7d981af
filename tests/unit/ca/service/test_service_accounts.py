"""Kubernetes tokens as proof of an identity: which are sent to be reviewed, and what comes of the review."""

import pytest
from structlog.testing import capture_logs

from app.ca.model import Surface
from app.ca.service.service_accounts import Clusters, ServiceAccountTokens, TokenRules
from app.core.errors import UnauthenticatedError, UnavailableError
from app.spiffe.attestation import Evidence
from app.spiffe.id import SpiffeId, TrustDomain
from app.spiffe.principal import Credential, Principal
from app.spiffe.service_account import BoundPod, ServiceAccount
from tests.assets.csrs import csr
from tests.assets.jwts import AUDIENCE, hostile, token
from tests.fakes.clock import ManualClock
from tests.fakes.token_reviewer import FakeTokenReviewer

CART = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
ACCOUNT = ServiceAccount("main", "shop", "cart", BoundPod("cart-1", "uid", "node-1"))
NOW = ManualClock().now()
TOKEN, LEGACY = token(NOW), token(NOW, aud=None, exp=None)
# Those that can be told without their issuer's keys; the others are the API server's to refuse.
MALFORMED = {name: case for name, case in hostile(NOW).items() if case[1] in {"malformed", "too_large", "algorithm"}}


@pytest.fixture
def main():
    return FakeTokenReviewer(**{TOKEN: ACCOUNT, LEGACY: ACCOUNT})


@pytest.fixture
def attestor(main, clock):
    def make(**rules):
        clusters = Clusters("main", {"main": main, "far": FakeTokenReviewer()})
        return ServiceAccountTokens(TrustDomain("example.org"), clusters, TokenRules((AUDIENCE,), **rules), clock)

    return make


async def reason_of(call):
    with pytest.raises(UnauthenticatedError) as refusal:
        await call
    return refusal.value.reason


async def test_a_reviewed_token_is_its_service_account(attestor, main):
    expected = Principal(Credential.SERVICE_ACCOUNT, CART, service_account=ACCOUNT)
    assert await attestor().attest(Evidence(TOKEN)) == expected
    assert main.asked == [(TOKEN, (AUDIENCE,))]


async def test_it_is_issued_certificates(attestor, ca):
    caller = await attestor().attest(Evidence(TOKEN))
    for _ in range(2):
        assert (await ca.issuance.issue(caller, csr(), 600, Surface.ISTIO_CA)).spiffe_id == CART


@pytest.mark.parametrize("bearer", [None, "", "join-token", "eyJ"])
async def test_what_is_no_jwt_is_left_to_others(attestor, main, bearer):
    assert await attestor().attest(Evidence(bearer)) is None
    assert main.asked == []


@pytest.mark.parametrize("case", MALFORMED.values(), ids=MALFORMED)
async def test_what_is_malformed_is_sent_to_nobody(attestor, main, case):
    assert await reason_of(attestor().attest(Evidence(case[0])))
    assert main.asked == []


@pytest.mark.parametrize("cluster", ["", "main"])
async def test_the_primary_cluster_is_meant_where_none_is_named(attestor, cluster):
    assert await attestor().attest(Evidence(TOKEN, cluster))


async def test_a_token_is_reviewed_by_the_cluster_that_is_named_and_no_other(attestor, main):
    assert await reason_of(attestor().attest(Evidence(TOKEN, "far"))) == "kubernetes_refused"
    for unknown in ("Main", "main ", "../main", "\0", "x" * 10_000):
        assert await reason_of(attestor().attest(Evidence(TOKEN, unknown))) == "kubernetes_cluster"
    assert main.asked == []


@pytest.mark.parametrize("audience", [None, [], ""])
async def test_a_token_without_an_audience_is_refused_unless_the_settings_accept_it(attestor, main, audience):
    legacy = token(NOW, aud=audience) if audience is not None else LEGACY
    main.answers[legacy] = ACCOUNT
    assert await reason_of(attestor().attest(Evidence(legacy))) == "kubernetes_legacy"
    assert main.asked == []
    assert (await attestor(legacy=True).attest(Evidence(legacy))).spiffe_id == CART
    assert main.asked == [(legacy, ())]


async def test_a_token_with_an_audience_is_never_reviewed_without(attestor, main):
    await attestor(legacy=True).attest(Evidence(TOKEN))
    assert main.asked == [(TOKEN, (AUDIENCE,))]


async def test_legacy_tokens_are_warned_of_once_an_hour(attestor, clock):
    legacy = attestor(legacy=True)
    with capture_logs() as lines:
        for _ in range(3):
            await legacy.attest(Evidence(LEGACY))
        clock.advance(3601)
        await legacy.attest(Evidence(LEGACY))
    assert [(line["event"], line["namespace"], line["service_account"]) for line in lines] == [
        ("legacy_token_accepted", "shop", "cart")
    ] * 2


async def test_a_token_that_is_bound_to_no_pod_is_refused_where_one_is_required(attestor, main):
    assert (await attestor(require_pod=True).attest(Evidence(TOKEN))).spiffe_id == CART
    main.answers[TOKEN] = ServiceAccount("main", "shop", "cart")
    assert (await attestor().attest(Evidence(TOKEN))).spiffe_id == CART
    assert await reason_of(attestor(require_pod=True).attest(Evidence(TOKEN))) == "kubernetes_unbound"


async def test_an_api_server_that_is_away_refuses_nobody(attestor, main):
    main.answers[TOKEN] = UnavailableError("away")
    with pytest.raises(UnavailableError):
        await attestor().attest(Evidence(TOKEN))
