"""A real API server of Kubernetes on a real etcd, on loopback: objects without anything that would run them."""

import contextlib
import json
import shutil
import subprocess
import time
from contextlib import ExitStack, contextmanager

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.assets.certificates import key_pem
from tests.support.peers import KUBE_APISERVER
from tests.support.ports import free_ports

START_SECONDS = 60
ISSUER = "https://kubernetes.default.svc"
ADMIN, MESHWARD, NOBODY = "admin-token", "meshward-token", "nobody-token"
TOKENS = f"{ADMIN},admin,1,system:masters\n{MESHWARD},meshward,2,\n{NOBODY},nobody,3,\n"
# What the guide has an operator grant.
ROLES: tuple[dict, ...] = (
    {
        "kind": "ClusterRole",
        "metadata": {"name": "meshward"},
        "rules": [
            {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
        ],
    },
    {
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "meshward"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "meshward"},
        "subjects": [{"kind": "User", "name": "meshward", "apiGroup": "rbac.authorization.k8s.io"}],
    },
)


def kubeconfig(path, server, token, authority=None):
    """A kubeconfig file for a server and one user's token."""
    ca = {"certificate-authority": str(authority)} if authority else {}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "it",
        "clusters": [{"name": "it", "cluster": {"server": server, **ca}}],
        "users": [{"name": "it", "user": {"token": token}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    }
    path.write_text(json.dumps(document))
    return path


class KubeCluster:
    """The API server of a cluster, as its administrator."""

    def __init__(self, directory, url, authority, key) -> None:
        self.directory, self.url, self.authority, self._key = directory, url, authority, key
        headers = {"authorization": f"Bearer {ADMIN}"}
        self.client = httpx.Client(base_url=url, verify=False, headers=headers, timeout=START_SECONDS)

    def ask(self, method, path, **body):
        response = self.client.request(method, path, json=body or None)
        assert response.is_success or (method, response.status_code) == ("POST", 409), response.text
        return response.json()

    def is_ready(self):
        try:
            return self.client.get("/readyz").is_success
        except httpx.TransportError:
            return False

    def kubeconfig(self, token=MESHWARD):
        return kubeconfig(self.directory / f"{token}.json", self.url, token, self.authority)

    def service_account(self, namespace, name):
        self.ask("POST", "/api/v1/namespaces", metadata={"name": namespace})
        return self.ask("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", metadata={"name": name})

    def pod(self, namespace, name, account, node, phase="Running"):
        """Create a pod that is on a node as if it had been scheduled there, in a phase; return its UID."""
        pods = f"/api/v1/namespaces/{namespace}/pods"
        spec = {"serviceAccountName": account, "nodeName": node, "containers": [{"name": "c", "image": "c"}]}
        self.ask("POST", "/api/v1/nodes", metadata={"name": node})
        pod = self.ask("POST", pods, metadata={"name": name}, spec=spec)
        self.ask("PUT", f"{pods}/{name}/status", **{**pod, "status": {"phase": phase}})
        return pod["metadata"]["uid"]

    def remove_pod(self, namespace, name):
        self.ask("DELETE", f"/api/v1/namespaces/{namespace}/pods/{name}?gracePeriodSeconds=0")

    def token(self, namespace, account, *, audiences=("istio-ca",), pod=None):
        """A token of a service account, bound to a pod if there is one."""
        spec = {"audiences": list(audiences), "expirationSeconds": 3600}
        if pod is not None:
            uid = self.ask("GET", f"/api/v1/namespaces/{namespace}/pods/{pod}")["metadata"]["uid"]
            spec["boundObjectRef"] = {"kind": "Pod", "apiVersion": "v1", "name": pod, "uid": uid}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        return self.ask("POST", path, spec=spec)["status"]["token"]

    def legacy_token(self, namespace, account):
        """A token as they were kept in Secrets: of no audience, and for ever."""
        path = f"/api/v1/namespaces/{namespace}"
        uid = self.ask("GET", f"{path}/serviceaccounts/{account}")["metadata"]["uid"]
        claim = "kubernetes.io/serviceaccount/"
        token = jwt.encode(
            {
                "iss": "kubernetes/serviceaccount",
                "sub": f"system:serviceaccount:{namespace}:{account}",
                claim + "namespace": namespace,
                claim + "secret.name": f"{account}-token",
                claim + "service-account.name": account,
                claim + "service-account.uid": uid,
            },
            self._key,
            algorithm="RS256",
        )
        annotations = {"kubernetes.io/service-account.name": account, "kubernetes.io/service-account.uid": uid}
        self.ask(
            "POST",
            f"{path}/secrets",
            metadata={"name": f"{account}-token", "annotations": annotations},
            type="kubernetes.io/service-account-token",
            stringData={"token": token},
        )
        return token


@contextmanager
def kube_cluster(directory):
    """Run etcd and the API server; yield the cluster."""
    program = KUBE_APISERVER.required()
    if (etcd := shutil.which("etcd")) is None:
        pytest.skip("needs etcd, of the package etcd-server")
    directory.mkdir()
    store, peer, port = free_ports(3)
    key = rsa.generate_private_key(65537, 2048)
    (directory / "sa.key").write_bytes(key_pem(key))
    (directory / "sa.pub").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (directory / "tokens.csv").write_text(TOKENS)
    at = f"http://127.0.0.1:{store}"
    urls = ["--listen-client-urls", at, "--advertise-client-urls", at]
    peers = ["--listen-peer-urls", f"http://127.0.0.1:{peer}"]
    command = [
        program,
        f"--etcd-servers={at}",
        f"--secure-port={port}",
        "--bind-address=127.0.0.1",
        f"--cert-dir={directory / 'certs'}",
        f"--service-account-key-file={directory / 'sa.pub'}",
        f"--service-account-signing-key-file={directory / 'sa.key'}",
        f"--service-account-issuer={ISSUER}",
        f"--api-audiences={ISSUER},istio-ca",
        f"--token-auth-file={directory / 'tokens.csv'}",
        "--authorization-mode=RBAC,Node",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--disable-admission-plugins=ServiceAccount",
    ]
    with ExitStack() as stack:
        stack.enter_context(_running([etcd, "--data-dir", directory / "etcd", *urls, *peers], directory / "etcd.log"))
        server = stack.enter_context(_running(command, directory / "api.log"))
        cluster = KubeCluster(directory, f"https://127.0.0.1:{port}", directory / "certs" / "apiserver.crt", key)
        stack.enter_context(cluster.client)
        until = time.monotonic() + START_SECONDS
        while not cluster.is_ready():
            assert time.monotonic() < until, (directory / "api.log").read_text()[-4000:]
            assert server.poll() is None, (directory / "api.log").read_text()[-4000:]
            time.sleep(0.1)
        for role in ROLES:
            kind = f"{role['kind'].lower()}s"
            cluster.ask("POST", f"/apis/rbac.authorization.k8s.io/v1/{kind}", **role)
        yield cluster


@contextmanager
def _running(command, log):
    with log.open("wb") as file:
        process = subprocess.Popen(list(map(str, command)), stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()
