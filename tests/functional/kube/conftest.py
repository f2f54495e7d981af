"""API servers: a real one, where it is built, and a fake that speaks its HTTP."""

import asyncio

import pytest

from app.core.clock import SystemClock
from app.kube.api import ClusterAccess, KubeApi
from tests.fakes.kube_api import FakeKubeApi
from tests.support.kube import MESHWARD, kube_cluster


@pytest.fixture(scope="session")
def real_cluster(tmp_path_factory):
    with kube_cluster(tmp_path_factory.mktemp("kube") / "cluster") as cluster:
        yield cluster


@pytest.fixture
async def fake_cluster(tmp_path):
    async with FakeKubeApi(tmp_path).running() as fake:
        yield fake


@pytest.fixture
async def make_api(metrics):
    """Makes what asks a cluster, as one of its users."""
    made = []

    def make(cluster, user=MESHWARD, *, seconds=20.0, clock=None):
        access = ClusterAccess("Kubernetes", cluster.kubeconfig(user), None, seconds)
        made.append(KubeApi(access, clock or SystemClock(), metrics))
        return made[-1]

    yield make
    await asyncio.gather(*(api.close() for api in made))
