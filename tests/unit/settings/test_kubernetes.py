"""The settings of Kubernetes clusters."""

import json
from pathlib import Path

import pytest

from app.core.errors import InvalidInputError
from app.settings import load
from app.settings.show import as_toml

CLUSTERS = """
[kubernetes]
api = "kubeconfig"
kubeconfig = "/etc/meshward/main.yaml"
context = "main"
cluster_id = "east"
token_audiences = ["istio-ca", "mesh"]
[kubernetes.remote_clusters.west]
kubeconfig = "/etc/meshward/west.yaml"
[kubernetes.remote_clusters."north.1"]
kubeconfig = "/etc/meshward/north.yaml"
context = "north"
"""
ON = {"MESHWARD_KUBERNETES_API": "in-cluster"}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "meshward.toml"
    path.write_text(CLUSTERS)
    return path


def test_nothing_is_asked_by_default():
    kubernetes = load({}).settings.kubernetes
    assert (kubernetes.api, kubernetes.token_audiences, kubernetes.legacy_tokens) == ("off", ("istio-ca",), "refuse")


def test_clusters_are_tables_in_the_file_and_json_in_the_variable(config):
    by_file = load({}, config).settings.kubernetes
    assert by_file.remote_clusters["west"].kubeconfig == Path("/etc/meshward/west.yaml")
    assert by_file.remote_clusters["north.1"].context == "north"
    assert by_file.token_audiences == ("istio-ca", "mesh")
    tables = json.dumps({"west": {"kubeconfig": "/w"}})
    by_variable = load(ON | {"MESHWARD_KUBERNETES_REMOTE_CLUSTERS": tables}).settings.kubernetes
    assert by_variable.remote_clusters["west"].kubeconfig == Path("/w")


def test_they_are_shown_as_they_can_be_read_back(config):
    loaded = load({}, config)
    config.write_text(as_toml(loaded))
    assert load({}, config).settings == loaded.settings


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"API": "on"}, "off"),
        ({"API": "kubeconfig"}, "must be set together"),
        ({"KUBECONFIG": "/k"}, "must be set together"),
        ({"API": "in-cluster", "KUBECONFIG": "/k"}, "must be set together"),
        ({"API": "in-cluster", "CONTEXT": "x"}, "kubeconfig is not set"),
        ({"REMOTE_CLUSTERS": '{"far": {"kubeconfig": "/f"}}'}, "remote_clusters needs api"),
        ({"API": "in-cluster", "REMOTE_CLUSTERS": '{"Kubernetes": {"kubeconfig": "/f"}}'}, "give each its own"),
        ({"API": "in-cluster", "REMOTE_CLUSTERS": '{"far": {}}'}, r"remote_clusters\.far\.kubeconfig .*required"),
        ({"API": "in-cluster", "REMOTE_CLUSTERS": '{"far": {"kubeconfig": "/f", "x": 1}}'}, "not permitted"),
        ({"API": "in-cluster", "REMOTE_CLUSTERS": '{"a/b": {"kubeconfig": "/f"}}'}, "a cluster's id"),
        ({"API": "in-cluster", "REMOTE_CLUSTERS": "{"}, "JSON object"),
        ({"CLUSTER_ID": "a b"}, "a cluster's id"),
        ({"CLUSTER_ID": "-a"}, "a cluster's id"),
        ({"TOKEN_AUDIENCES": ","}, "token_audiences"),
        ({"LEGACY_TOKENS": "accept"}, "legacy_tokens"),
        ({"NODE_ACCOUNTS": "ztunnel"}, "namespace/name"),
        ({"NODE_ACCOUNTS": "istio-system/ztunnel,a/b/c"}, "namespace/name"),
        ({"CACHE_SECONDS": "301"}, "cache_seconds"),
        ({"CACHE_SECONDS": "-1"}, "cache_seconds"),
        ({"TIMEOUT_MS": "0"}, "timeout_ms"),
    ],
)
def test_what_does_not_fit_is_refused(variables, problem):
    with pytest.raises(InvalidInputError, match=problem):
        load({f"MESHWARD_KUBERNETES_{name}": value for name, value in variables.items()})
