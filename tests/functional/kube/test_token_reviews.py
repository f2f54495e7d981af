"""Reviews of tokens: what is remembered, for how long, and what comes of an API server that does not answer."""

import asyncio
from datetime import timedelta

import pytest

from app.core.circuit import MAX_FAILURES
from app.core.errors import MeshwardError, UnavailableError
from app.core.inquiries import MAX_KEPT
from app.kube.api import MAX_ANSWER_BYTES
from app.kube.token_review import TokenReviews
from app.spiffe.service_account import BoundPod, ServiceAccount
from tests.assets.jwts import token as signed
from tests.fakes.kube_api import answers, hangs
from tests.support.kube import NOBODY
from tests.support.serving import eventually_async

AUDIENCES = ("istio-ca",)
CART = ServiceAccount("Kubernetes", "shop", "cart")
KEPT_SECONDS = 10.0


@pytest.fixture
def api(make_api, fake_cluster, clock):
    return make_api(fake_cluster, clock=clock)


@pytest.fixture
def reviews(api, clock):
    return TokenReviews(api, clock, KEPT_SECONDS)


async def refusal_of(call):
    with pytest.raises(MeshwardError) as refusal:
        await call
    return refusal.value


async def test_a_token_is_reviewed_once_for_all_who_show_it(reviews, fake_cluster):
    token = fake_cluster.accept("token", "shop", "cart")
    assert set(await asyncio.gather(*(reviews.review(token, AUDIENCES) for _ in range(50)))) == {CART}
    assert await reviews.review(token, AUDIENCES) == CART
    assert reviews.known(token, AUDIENCES) == CART
    assert reviews.known(token, ("vault",)) is None
    assert fake_cluster.calls == ["POST /apis/authentication.k8s.io/v1/tokenreviews"]


async def test_one_who_gives_up_ends_the_review_for_no_other(reviews, fake_cluster):
    token = fake_cluster.accept("token", "shop", "cart")
    first, second = (asyncio.create_task(reviews.review(token, AUDIENCES)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == CART
    assert len(fake_cluster.calls) == 1


async def test_what_is_remembered_is_reviewed_again_after_seconds(reviews, fake_cluster, clock):
    token = fake_cluster.accept("token", "shop", "cart")
    fake_cluster.pod("shop", "cart-1", "cart", "node-1")
    assert (await reviews.review(token, AUDIENCES)).pod is None
    fake_cluster.accept("token", "shop", "cart", pod="cart-1")
    clock.advance(KEPT_SECONDS - 0.1)
    assert (await reviews.review(token, AUDIENCES)).pod is None
    clock.advance(0.1)
    assert (await reviews.review(token, AUDIENCES)).pod == BoundPod("cart-1", "uid-of-cart-1", "node-1")


async def test_a_token_is_not_remembered_beyond_its_end(reviews, fake_cluster, clock):
    ends = clock.now() + timedelta(seconds=KEPT_SECONDS / 2)
    token = fake_cluster.accept(signed(clock.now(), exp=ends), "shop", "cart")
    for _ in range(2):
        assert await reviews.review(token, AUDIENCES) == CART
    assert len(fake_cluster.calls) == 1
    clock.advance(KEPT_SECONDS / 2)
    await reviews.review(token, AUDIENCES)
    assert len(fake_cluster.calls) == 2


async def test_a_refusal_is_remembered_as_well(reviews, fake_cluster, clock):
    for _ in range(3):
        assert (await refusal_of(reviews.review("token", AUDIENCES))).reason == "kubernetes_refused"
    assert len(fake_cluster.calls) == 1
    fake_cluster.accept("token", "shop", "cart")
    clock.advance(KEPT_SECONDS)
    assert await reviews.review("token", AUDIENCES) == CART


async def test_another_audience_is_another_question(reviews, fake_cluster):
    token = fake_cluster.accept("token", "shop", "cart", audiences=("vault",))
    assert await reviews.review(token, ("vault",)) == CART
    assert (await refusal_of(reviews.review(token, AUDIENCES))).reason == "kubernetes_refused"


async def test_a_flood_of_refused_tokens_drives_out_no_accepted_one(reviews, fake_cluster, monkeypatch):
    monkeypatch.setattr("app.core.inquiries.MAX_KEPT", 3)
    assert MAX_KEPT > 3
    token = fake_cluster.accept("token", "shop", "cart")
    await reviews.review(token, AUDIENCES)
    for number in range(5):
        await refusal_of(reviews.review(f"guess-{number}", AUDIENCES))
    asked = len(fake_cluster.calls)
    assert await reviews.review(token, AUDIENCES) == CART
    await refusal_of(reviews.review("guess-4", AUDIENCES))
    assert len(fake_cluster.calls) == asked
    await refusal_of(reviews.review("guess-0", AUDIENCES))
    assert len(fake_cluster.calls) == asked + 1


BAD_ANSWERS = {
    "an error": (answers(500), "it answered 500"),
    "overloaded": (answers(429), "it answered 429"),
    "not allowed": (answers(403), "it answered 403"),
    "no reviews": (answers(404), "reviews no tokens"),
    "not known": (answers(401), "it answered 401"),
    "a redirect to nowhere": (answers(302), "it answered 302"),
    "not JSON": (answers(201, b"<html>"), "its answer is not JSON"),
    "a list": (answers(201, b"[]"), "not a JSON object"),
    "deep": (answers(201, b"[" * 100_000), "its answer is not JSON"),
    "no review": (answers(201, b"{}"), "no TokenReview"),
    "another kind of status": (answers(201, {"status": {"authenticated": "yes"}}), "no TokenReview"),
    "too much": (answers(201, b" " * (MAX_ANSWER_BYTES + 1)), "more than"),
}


@pytest.mark.parametrize("case", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
async def test_what_is_no_answer_is_unavailable_and_not_remembered(reviews, fake_cluster, case):
    behaviour, problem = case
    token = fake_cluster.accept("token", "shop", "cart")
    fake_cluster.behaviour = behaviour
    error = await refusal_of(reviews.review(token, AUDIENCES))
    assert isinstance(error, UnavailableError)
    assert problem in error.message
    assert "token-" not in error.message
    fake_cluster.behaviour = None
    assert await reviews.review(token, AUDIENCES) == CART


async def test_an_api_server_that_hangs_is_unavailable(make_api, fake_cluster, clock):
    reviews = TokenReviews(make_api(fake_cluster, seconds=0.2, clock=clock), clock, KEPT_SECONDS)
    fake_cluster.behaviour = hangs
    error = await refusal_of(reviews.review("token", AUDIENCES))
    assert isinstance(error, UnavailableError)
    assert "did not answer within 0.2 s" in error.message


async def test_an_api_server_that_is_away_is_left_alone_and_found_again(reviews, fake_cluster, clock, metrics):
    available = 'meshward_kubernetes_available{cluster="Kubernetes"}'
    token = fake_cluster.accept("token", "shop", "cart")
    fake_cluster.behaviour = answers(503)
    for _ in range(MAX_FAILURES + 5):
        assert isinstance(await refusal_of(reviews.review(token, AUDIENCES)), UnavailableError)
    assert len(fake_cluster.calls) == MAX_FAILURES
    assert f"{available} 0.0" in metrics.render().decode()
    fake_cluster.behaviour = None
    clock.advance(1.0)
    assert await reviews.review(token, AUDIENCES) == CART
    assert f"{available} 1.0" in metrics.render().decode()


async def test_nothing_listens(make_api, fake_cluster, clock):
    fake_cluster.url = "http://127.0.0.1:1"
    reviews = TokenReviews(make_api(fake_cluster, clock=clock), clock, KEPT_SECONDS)
    assert isinstance(await refusal_of(reviews.review("token", AUDIENCES)), UnavailableError)


async def test_a_kubeconfig_is_read_again_when_its_token_is_no_longer_known(reviews, api, fake_cluster):
    fake_cluster.accept("token", "shop", "cart")
    path = api.access.kubeconfig
    good = path.read_text()
    path.write_text(good.replace("meshward-token", "of-yesterday"))
    assert "401" in (await refusal_of(reviews.review("token", AUDIENCES))).message
    path.write_text(good)
    assert await reviews.review("token", AUDIENCES) == CART


@pytest.mark.parametrize("content", ["", "{", "secret: [", "[]", '{"current-context": 1}', "\0", "%"])
async def test_a_kubeconfig_that_is_none_is_unavailable(reviews, api, content):
    api.access.kubeconfig.write_text(content)
    error = await refusal_of(reviews.review("token", AUDIENCES))
    assert isinstance(error, UnavailableError)
    assert str(api.access.kubeconfig) in error.message
    assert "secret" not in error.message


async def test_a_kubeconfig_that_is_missing_is_unavailable(reviews, api):
    api.access.kubeconfig.unlink()
    assert isinstance(await refusal_of(reviews.review("token", AUDIENCES)), UnavailableError)


async def test_the_check_tells_whether_tokens_can_be_reviewed(reviews, make_api, fake_cluster, clock):
    await reviews.check()
    nobody = TokenReviews(make_api(fake_cluster, NOBODY, clock=clock), clock, KEPT_SECONDS)
    assert "403" in (await refusal_of(nobody.check())).message


async def test_of_a_crowd_the_last_are_refused_at_once(reviews, fake_cluster, monkeypatch):
    monkeypatch.setattr("app.kube.api.MAX_CALLS", 2)
    fake_cluster.behaviour = hangs
    waiting = [asyncio.create_task(reviews.review(f"token-{number}", AUDIENCES)) for number in range(2)]

    async def both_wait():
        return len(fake_cluster.calls) == 2

    await eventually_async(both_wait, "the first two to be asked")
    assert "wait for it already" in (await refusal_of(reviews.review("token", AUDIENCES))).message
    for each in waiting:
        each.cancel()
