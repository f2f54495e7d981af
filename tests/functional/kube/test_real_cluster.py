"""What a real API server says of tokens."""

import asyncio

import pytest

from app.core.clock import SystemClock
from app.core.errors import MeshwardError, UnauthenticatedError, UnavailableError
from app.kube.token_review import TokenReviews
from app.spiffe.service_account import BoundPod, ServiceAccount
from tests.assets.request_authentications import credential_authentication
from tests.fakes.authz import policy, request
from tests.fakes.checks import policy_service
from tests.support.kube import NOBODY

pytestmark = pytest.mark.peer

AUDIENCES = ("istio-ca",)
CART = ServiceAccount("Kubernetes", "shop", "cart")


@pytest.fixture(scope="module")
def cluster(real_cluster):
    real_cluster.service_account("shop", "cart")
    real_cluster.uid = real_cluster.pod("shop", "cart-1", "cart", "node-1")
    return real_cluster


@pytest.fixture
def reviews(make_api, cluster):
    return TokenReviews(make_api(cluster), SystemClock(), 10.0)


async def reason_of(call):
    with pytest.raises(MeshwardError) as refusal:
        await call
    return type(refusal.value), refusal.value.reason


async def test_a_token_bound_to_a_pod_tells_pod_and_node(reviews, cluster):
    account = await reviews.review(cluster.token("shop", "cart", pod="cart-1"), AUDIENCES)
    assert account == ServiceAccount("Kubernetes", "shop", "cart", BoundPod("cart-1", cluster.uid, "node-1"))


async def test_a_token_that_is_bound_to_none_tells_none(reviews, cluster):
    assert await reviews.review(cluster.token("shop", "cart"), AUDIENCES) == CART


async def test_any_of_several_audiences_will_do(reviews, cluster):
    token = cluster.token("shop", "cart", audiences=("istio-ca", "vault"))
    assert await reviews.review(token, ("meshward", "istio-ca")) == CART


async def test_a_token_for_another_audience_is_refused(reviews, cluster):
    token = cluster.token("shop", "cart", audiences=("vault",))
    assert await reason_of(reviews.review(token, AUDIENCES)) == (UnauthenticatedError, "kubernetes_refused")


async def test_a_token_that_was_tampered_with_is_refused(reviews, cluster):
    head, payload, signature = cluster.token("shop", "cart").split(".")
    forged = ".".join((head, payload, signature[:-8] + "AAAAAAAA"))
    for token in ("nonsense", forged, f"{head}.{payload}."):
        assert await reason_of(reviews.review(token, AUDIENCES)) == (UnauthenticatedError, "kubernetes_refused")


async def test_a_legacy_token_is_good_for_the_api_server(reviews, cluster):
    """Even for our audience, which is why tokens without one are refused before they are reviewed."""
    token = cluster.legacy_token("shop", "cart")
    assert await reviews.review(token, ()) == CART
    assert await reviews.review(token, AUDIENCES) == CART


async def test_a_request_with_a_token_for_its_audience_has_the_service_account_as_principal(reviews, cluster, clock):
    service = await policy_service("", clock=clock, reviewers={"main": reviews})
    rule = {"kubernetesTokenReview": {"audiences": ["shop"]}}
    principal = "meshward.io/kubernetes/Kubernetes/system:serviceaccount:shop:cart"
    carts = policy(f"{{rules: [{{from: [{{source: {{requestPrincipals: ['{principal}']}}}}]}}]}}")
    await service.apply(credential_authentication(rule) + carts)

    async def passes(text):
        decision = service.check(request(headers={"authorization": (f"Bearer {text}",)}))
        return (decision if hasattr(decision, "outcome") else await decision).allowed

    token = cluster.token("shop", "cart", audiences=("shop",), pod="cart-1")
    assert await passes(token)
    assert service.check(request(headers={"authorization": (f"Bearer {token}",)})).allowed
    assert not await passes(cluster.token("shop", "cart"))
    assert not await passes(cluster.legacy_token("shop", "cart"))


async def test_a_user_that_may_not_review_tokens_is_told_so(make_api, cluster):
    reviews = TokenReviews(make_api(cluster, NOBODY), SystemClock(), 10.0)
    with pytest.raises(UnavailableError, match=r"it answered 403: give its service account the rights"):
        await reviews.check()


async def test_with_the_rights_of_the_guide_the_check_passes(reviews):
    await reviews.check()


async def test_fifty_callers_at_once(reviews, cluster, metrics):
    token = cluster.token("shop", "cart")
    assert set(await asyncio.gather(*(reviews.review(token, AUDIENCES) for _ in range(50)))) == {CART}
    assert 'result="ok"} 1.0' in metrics.render().decode()
