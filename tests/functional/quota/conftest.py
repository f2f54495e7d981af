"""Real Valkey servers."""

import pytest

from tests.support.valkey import cluster_started, valkey_started


@pytest.fixture(scope="session")
def valkey_server():
    with valkey_started() as server:
        yield server


@pytest.fixture(scope="session")
def valkey_cluster():
    with cluster_started() as nodes:
        yield nodes
