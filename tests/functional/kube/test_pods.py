"""Pods of a cluster, as a real API server and the fake know them."""

import pytest

from app.ca.model import Pod
from app.core.errors import UnavailableError
from app.kube.pods import ClusterPods
from tests.fakes.kube_api import answers
from tests.support.kube import NOBODY


@pytest.fixture(params=["real_cluster", "fake_cluster"])
def cluster(request):
    cluster = request.getfixturevalue(request.param)
    if request.param == "real_cluster":
        cluster.service_account("nodes", "cart")
        cluster.service_account("nodes", "pay")
    return cluster


async def test_what_runs_where(cluster, make_api):
    uids = [
        cluster.pod("nodes", name, account, node, phase)
        for name, account, node, phase in (
            ("cart-1", "cart", "node-a", "Running"),
            ("cart-2", "cart", "node-b", "Pending"),
            ("cart-3", "cart", "node-c", "Failed"),
            ("cart-4", "cart", "node-d", "Succeeded"),
            ("pay-1", "pay", "node-c", "Running"),
        )
    ]
    pods = ClusterPods(make_api(cluster))
    assert await pods.pod("nodes", "cart-1") == Pod(uids[0], "cart", "node-a")
    assert await pods.pod("nodes", "cart-9") is None
    assert await pods.pod("nowhere", "cart-1") is None
    running = {node for node in ("node-a", "node-b", "node-c", "node-d") if await pods.runs("nodes", "cart", node)}
    assert running == {"node-a", "node-b"}
    assert await pods.runs("nodes", "pay", "node-c")
    assert not await pods.runs("other", "cart", "node-a")
    assert not await pods.runs("nodes", "car", "node-a")


async def test_who_may_not_ask_is_told(cluster, make_api):
    pods = ClusterPods(make_api(cluster, NOBODY))
    with pytest.raises(UnavailableError, match="answered 403"):
        await pods.pod("nodes", "cart-1")
    with pytest.raises(UnavailableError, match="answered 403"):
        await pods.runs("nodes", "cart", "node-a")


@pytest.mark.parametrize("content", [{}, {"metadata": [], "spec": None}, {"metadata": {"uid": 1}, "spec": {}}])
async def test_what_is_no_pod_is_no_answer(fake_cluster, make_api, content):
    fake_cluster.behaviour = answers(200, content)
    pods = ClusterPods(make_api(fake_cluster))
    with pytest.raises(UnavailableError, match="no pod"):
        await pods.pod("shop", "cart-1")
    assert await pods.runs("shop", "cart", "node-a") is False
