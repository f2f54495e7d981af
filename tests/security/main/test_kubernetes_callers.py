"""Kubernetes tokens at a running control plane: reviewed by the API server of their cluster, and by nobody else."""

import asyncio
import json
from contextlib import ExitStack
from datetime import UTC, datetime

import grpc
import pytest

from app.core.circuit import MAX_FAILURES
from tests.assets.discovery import request
from tests.assets.jwts import hostile, token
from tests.fakes.kube_api import FakeKubeApi, answers, hangs
from tests.support.callers import CART, certify, code_of, plaintext_channel, stream_secrets, tls_channel
from tests.support.serving import Serving, eventually_async

UNAUTHENTICATED, UNAVAILABLE = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE
OK = grpc.StatusCode.OK


@pytest.fixture(scope="module")
def clusters(tmp_path_factory):
    """The primary cluster and a remote one."""
    with ExitStack() as stack:
        yield tuple(
            stack.enter_context(FakeKubeApi(tmp_path_factory.mktemp(name)).running_in_thread())
            for name in ("primary", "far")
        )


@pytest.fixture
def cluster(clusters):
    return clusters[0]


@pytest.fixture(scope="module")
def server(clusters, tmp_path_factory):
    primary, far = clusters
    serving = Serving(tmp_path_factory.mktemp("serve"))
    yield serving.start(
        kubernetes_api="kubeconfig",
        kubernetes_kubeconfig=primary.kubeconfig(),
        kubernetes_remote_clusters=json.dumps({"far": {"kubeconfig": str(far.kubeconfig())}}),
        kubernetes_timeout_ms=1000,
        kubernetes_cache_seconds=0,
        kubernetes_node_accounts="istio-system/ztunnel",
    )
    serving.end()


def now():
    return datetime.now(UTC)


def accepted(cluster, **changed):
    """A token that the cluster knows."""
    return cluster.accept(token(now(), jti=str(len(cluster.calls)), **changed), "shop", "cart")


def faults(server):
    """What the log says that went wrong inside the control plane."""
    return [event for event in server.events() if event["event"] in {"rpc_failed", "task_ended"}] + [
        line for line in server.log_text.splitlines() if "Traceback" in line
    ]


async def test_a_pod_gets_certificates_and_secrets_with_one_token_again_and_again(server, cluster):
    presented = accepted(cluster)
    async with tls_channel(server) as channel:
        for _ in range(3):
            assert (await certify(channel, token=presented)).spiffe_id == CART
    async with plaintext_channel(server) as channel:
        call = stream_secrets(channel, presented)
        await call.write(request("default"))
        assert (await call.read()).resources
        call.cancel()
    assert presented.split(".")[2] not in server.log_text
    assert faults(server) == []


async def test_a_join_token_works_beside(server, cluster):
    async with tls_channel(server) as channel:
        secret = await asyncio.to_thread(server.join_token, CART)
        asked = len(cluster.calls)
        assert (await certify(channel, token=secret)).spiffe_id == CART
    assert len(cluster.calls) == asked


async def test_each_hostile_token_is_unauthenticated(server, cluster):
    for name, (text, _) in hostile(now()).items():
        async with tls_channel(server) as channel:
            assert await code_of(certify(channel, token=text)) is UNAUTHENTICATED, name
    reasons = {event["refusal"] for event in await asyncio.to_thread(server.events, "request_refused")}
    assert reasons >= {"jwt_malformed", "jwt_algorithm", "jwt_too_large", "kubernetes_refused", "kubernetes_legacy"}
    assert faults(server) == []


async def test_an_api_server_that_is_away_is_unavailable_until_it_is_back(server, cluster):
    async with tls_channel(server) as channel:
        assert await code_of(certify(channel, token=accepted(cluster))) is OK
        for behaviour in (hangs, answers(500), answers(403)):
            cluster.behaviour = behaviour
            assert await code_of(certify(channel, token=accepted(cluster))) is UNAVAILABLE
        cluster.behaviour = answers(500)
        for _ in range(MAX_FAILURES):
            await code_of(certify(channel, token=accepted(cluster)))
        cluster.behaviour, asked = None, len(cluster.calls)

        async def answers_again():
            return await code_of(certify(channel, token=accepted(cluster))) is OK

        await eventually_async(answers_again, "the API server to be asked again")
        assert len(cluster.calls) > asked
    assert faults(server) == []


async def test_a_token_is_reviewed_by_the_cluster_that_its_caller_names(server, clusters):
    primary, far = clusters
    asked = len(primary.calls)
    presented = far.accept(token(now()), "shop", "cart")
    async with tls_channel(server) as channel:
        assert (await certify(channel, token=presented, clusterid="far")).spiffe_id == CART
        for other in ({}, {"clusterid": "Kubernetes"}, {"clusterid": "unknown"}):
            assert await code_of(certify(channel, token=presented, **other)) is UNAUTHENTICATED
    assert len(primary.calls) == asked + 2


async def test_a_nodes_proxy_gets_certificates_of_its_node_alone(server, cluster):
    cluster.pod("istio-system", "ztunnel-1", "ztunnel", "node-1")
    cluster.pod("shop", "cart-1", "cart", "node-1")
    cluster.pod("shop", "pay-1", "pay", "node-2")
    node = cluster.accept(token(now(), jti="node"), "istio-system", "ztunnel", pod="ztunnel-1")
    cart = cluster.accept(token(now(), jti="cart"), "shop", "cart", pod="cart-1")
    pay = CART.replace("cart", "pay")
    async with tls_channel(server) as channel:
        assert (await certify(channel, token=node, impersonate=CART)).spiffe_id == CART
        for presented, wanted in (
            (node, pay),
            (node, CART.replace("cluster.local", "other")),
            (cart, pay),
            (cart, CART),
        ):
            assert await code_of(certify(channel, token=presented, impersonate=wanted)) is UNAUTHENTICATED
        own = await certify(channel, token=node)
    async with tls_channel(server, own) as channel:
        assert await code_of(certify(channel, impersonate=CART)) is UNAUTHENTICATED
    assert faults(server) == []


async def test_a_service_account_that_is_banned_gets_nothing(server, cluster):
    presented = cluster.accept(token(now(), jti="banned"), "shop", "thief")
    thief = CART.replace("cart", "thief")
    await asyncio.to_thread(server.ask, "PUT", f"/v1/identities/{thief}/ban", json={"reason": "stolen"})
    async with tls_channel(server) as channel:

        async def is_denied():
            return await code_of(certify(channel, token=presented)) is grpc.StatusCode.PERMISSION_DENIED

        await eventually_async(is_denied, "the ban")
