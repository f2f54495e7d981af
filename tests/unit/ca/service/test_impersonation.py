"""Whose certificate a node's proxy may request: each condition by itself."""

from dataclasses import replace

import pytest

from app.ca.model import Pod
from app.ca.service.impersonation import Impersonation
from app.core.errors import UnauthenticatedError, UnavailableError
from app.spiffe.id import SpiffeId, TrustDomain
from app.spiffe.principal import Credential, Principal
from app.spiffe.service_account import BoundPod, ServiceAccount
from tests.fakes.pods import FakePods

CART = "spiffe://example.org/ns/shop/sa/cart"
ZTUNNEL = ServiceAccount("main", "istio-system", "ztunnel", BoundPod("ztunnel-1", "uid-z", "node-1"))
CALLER = Principal(
    Credential.SERVICE_ACCOUNT,
    SpiffeId.parse("spiffe://example.org/ns/istio-system/sa/ztunnel"),
    address="10.0.0.7:40000",
    service_account=ZTUNNEL,
)


def as_account(**changed):
    return replace(CALLER, service_account=replace(ZTUNNEL, **changed))


@pytest.fixture
def pods():
    pods = FakePods()
    pods.placed = {
        ("istio-system", "ztunnel-1"): Pod("uid-z", "ztunnel", "node-1"),
        ("shop", "cart-1"): Pod("uid-1", "cart", "node-1"),
        ("shop", "pay-1"): Pod("uid-2", "pay", "node-2"),
    }
    return pods


@pytest.fixture
def impersonation(pods):
    return Impersonation(
        TrustDomain("example.org"), frozenset({"istio-system/ztunnel"}), {"main": pods, "far": FakePods()}
    )


async def problem_of(call):
    with pytest.raises(UnauthenticatedError) as refusal:
        await call
    assert refusal.value.reason == "impersonation"
    return refusal.value.message


async def test_a_nodes_proxy_requests_for_a_pod_of_its_node(impersonation):
    assert await impersonation.of(CALLER, CART) == replace(CALLER, spiffe_id=SpiffeId.parse(CART))


async def test_an_api_server_that_does_not_tell_the_node_in_the_token_knows_it_of_the_pod(impersonation):
    caller = as_account(pod=BoundPod("ztunnel-1", "uid-z"))
    assert (await impersonation.of(caller, CART)).spiffe_id == SpiffeId.parse(CART)


PROOFS = [each for each in Credential if each is not Credential.SERVICE_ACCOUNT]


@pytest.mark.parametrize("credential", PROOFS)
async def test_no_other_proof_will_do(impersonation, credential):
    assert "did not prove which pod" in await problem_of(impersonation.of(replace(CALLER, credential=credential), CART))


async def test_a_token_that_is_bound_to_no_pod_will_not_do(impersonation):
    assert "did not prove which pod" in await problem_of(impersonation.of(as_account(pod=None), CART))
    assert "did not prove which pod" in await problem_of(impersonation.of(replace(CALLER, service_account=None), CART))


@pytest.mark.parametrize("changed", [{"namespace": "shop"}, {"name": "cart"}, {"name": "ztunnel2"}])
async def test_another_service_account_may_not(impersonation, changed):
    assert "node_accounts" in await problem_of(impersonation.of(as_account(**changed), CART))


async def test_nobody_may_by_default(pods):
    nobody = Impersonation(TrustDomain("example.org"), frozenset(), {"main": pods})
    assert "node_accounts" in await problem_of(nobody.of(CALLER, CART))


@pytest.mark.parametrize(
    "wanted",
    [
        "spiffe://other.example/ns/shop/sa/cart",
        "spiffe://example.org.evil/ns/shop/sa/cart",
        "spiffe://example.org/ns/shop/sa/cart/",
        "spiffe://example.org/ns/shop/sa/cart/x",
        "spiffe://example.org/ns/shop/sa",
        "spiffe://example.org/ns//sa/cart",
        "spiffe://example.org/ns/../sa/cart",
        "spiffe://example.org/ns/Shop/sa/cart",
        "spiffe://example.org/NS/shop/SA/cart",
        "spiffe://example.org/ns/shop/sa/cart,spiffe://example.org/ns/shop/sa/admin",
        "spiffe://example.org/ns/shop/sa/cart\n",
        "spiffe://example.org",
        "spiffe://example.org/cart",
        "SPIFFE://example.org/ns/shop/sa/cart",
        "shop/cart",
        " ",
        "\0",
        "x" * 100_000,
    ],
)
async def test_what_is_no_service_account_of_this_trust_domain_is_refused(impersonation, wanted):
    assert await problem_of(impersonation.of(CALLER, wanted))


@pytest.mark.parametrize(
    ("pod", "problem"),
    [
        (None, "does not exist"),
        (Pod("uid-other", "ztunnel", "node-1"), "another UID"),
        (Pod("uid-z", "other", "node-1"), "another service account"),
        (Pod("uid-z", "ztunnel", "node-2"), "on another one"),
        (Pod("uid-z", "ztunnel", ""), "on no node"),
        (Pod("uid-z", "ztunnel", "node-1,x=y"), "on no node"),
    ],
)
async def test_the_callers_pod_has_to_be_the_one_of_its_token(impersonation, pods, pod, problem):
    if pod is None:
        del pods.placed["istio-system", "ztunnel-1"]
    else:
        pods.placed["istio-system", "ztunnel-1"] = pod
    assert problem in await problem_of(impersonation.of(CALLER, CART))


async def test_the_workload_has_to_run_on_the_callers_node(impersonation, pods):
    pay, unknown = CART.replace("cart", "pay"), CART.replace("shop", "nowhere")
    assert "no pod of" in await problem_of(impersonation.of(CALLER, pay))
    assert "no pod of" in await problem_of(impersonation.of(CALLER, unknown))
    pods.ended.add("cart-1")
    assert "no pod of" in await problem_of(impersonation.of(CALLER, CART))


async def test_the_workload_has_to_run_in_the_callers_cluster(impersonation):
    assert "does not exist" in await problem_of(impersonation.of(as_account(cluster="far"), CART))


async def test_a_cluster_that_cannot_be_asked_is_unavailable(impersonation, pods):
    pods.error = UnavailableError("away")
    with pytest.raises(UnavailableError):
        await impersonation.of(CALLER, CART)
