"""What a TokenReview must say for its token to be believed."""

import pytest

from app.core.errors import UnauthenticatedError, UnavailableError
from app.kube.token_review import read_review
from app.spiffe.service_account import BoundPod, ServiceAccount

EXTRA = "authentication.kubernetes.io/"
POD = {EXTRA + "pod-name": ["cart-1"], EXTRA + "pod-uid": ["uid"], EXTRA + "node-name": ["node-1"]}
CART = ServiceAccount("main", "shop", "cart")


def reviewed(*, user=None, audiences=("istio-ca",), wanted=("istio-ca",), **changed):
    """What becomes of a review that is good but for what is changed."""
    usual = {"username": "system:serviceaccount:shop:cart", "groups": ["system:serviceaccounts"]}
    status = {"authenticated": True, "user": usual | (user or {}), "audiences": list(audiences)} | changed
    return read_review({"status": status}, "main", wanted)


def test_a_service_account_and_its_pod():
    assert reviewed() == CART
    assert reviewed(user={"extra": POD}).pod == BoundPod("cart-1", "uid", "node-1")
    assert reviewed(user={"username": "system:serviceaccount:shop:cart.v1-2"}).name == "cart.v1-2"


@pytest.mark.parametrize("missing", [EXTRA + "pod-name", EXTRA + "pod-uid"])
def test_half_a_pod_is_none(missing):
    assert reviewed(user={"extra": POD | {missing: []}}).pod is None
    assert reviewed(user={"extra": POD | {missing: ["a", "b"]}}).pod is None


def test_an_older_api_server_does_not_tell_the_node():
    older = {name: value for name, value in POD.items() if "node" not in name}
    assert reviewed(user={"extra": older}).pod == BoundPod("cart-1", "uid", "")


@pytest.mark.parametrize("extra", [None, [], "x", {EXTRA + "pod-name": "cart-1", EXTRA + "pod-uid": "uid"}])
def test_an_extra_of_another_form_tells_no_pod(extra):
    assert reviewed(user={"extra": extra}) == CART


REFUSED = {
    "not authenticated": ({"authenticated": False}, "refused"),
    "authenticated with an error": ({"error": "half of it failed"}, "refused"),
    "no audience in the answer": ({"audiences": ()}, "audience"),
    "another audience in the answer": ({"audiences": ("api",)}, "audience"),
    "one that begins alike": ({"audiences": ("istio-ca2",)}, "audience"),
    "a user": ({"user": {"username": "admin"}}, "user"),
    "a user that is called like one": ({"user": {"groups": ["system:masters"]}}, "user"),
    "no groups": ({"user": {"groups": None}}, "user"),
    "a group that is a text": ({"user": {"groups": "system:serviceaccounts"}}, "user"),
    "three parts": ({"user": {"username": "system:serviceaccount:shop"}}, "user"),
    "five parts": ({"user": {"username": "system:serviceaccount:shop:cart:x"}}, "user"),
    "a path": ({"user": {"username": "system:serviceaccount:shop:../admin"}}, "user"),
    "a slash": ({"user": {"username": "system:serviceaccount:shop:cart/sa/admin"}}, "user"),
    "a line": ({"user": {"username": "system:serviceaccount:shop:cart\n"}}, "user"),
    "upper case": ({"user": {"username": "system:serviceaccount:Shop:cart"}}, "user"),
    "no name": ({"user": {"username": None}}, "user"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_what_proves_no_service_account_is_refused(case):
    changed, reason = case
    outcome = reviewed(**changed)
    assert isinstance(outcome, UnauthenticatedError)
    assert outcome.reason == f"kubernetes_{reason}"


@pytest.mark.parametrize("answer", [None, [], {}, {"status": None}, {"status": {"authenticated": 1}}])
def test_what_is_no_review_is_no_answer(answer):
    assert isinstance(read_review(answer, "main", ()), UnavailableError)


def test_without_an_audience_of_ours_the_api_servers_own_will_do():
    assert reviewed(audiences=("https://kubernetes.default.svc",), wanted=()) == CART


def test_what_the_api_server_says_is_bounded_and_printable():
    outcome = reviewed(authenticated=False, error="a\n\x1b[31m" + "b" * 10_000)
    assert outcome.message.isprintable()
    assert len(outcome.message) < 400
