"""A real Envoy as a gateway, whose routes name the workloads that it asks about, with several certificates.

Its network filter asks about connections, by their server name.
"""

import asyncio
import ssl
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from app.authz.rpc.destination import Gateways
from tests.assets.certificates import MeshCa, key_pem, new_key, pem
from tests.fakes.authz import policy
from tests.fakes.served_authz import served_authz
from tests.support.envoy_process import EnvoyProcess, cluster

EXT = "type.googleapis.com/envoy.extensions"
FILTER = "envoy.filters.http.ext_authz"
GATEWAY = "spiffe://cluster.local/ns/edge/sa/gateway"
SHOP = "spiffe://cluster.local/ns/shop/sa/shop"
LABELS = {"app": "gateway", "gateway.networking.k8s.io/gateway-name": "front"}
TO_CART, TO_SERVICE = "selector: {matchLabels: {app: cart}}", "targetRef: {kind: Service, name: cart}"
TO_GATEWAY = "targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: front}"


def deny(name, namespace, paths, scope="selector: {}"):
    spec = f"{{{scope}, action: DENY, rules: [{{to: [{{operation: {{paths: [{paths}]}}}}]}}]}}"
    return policy(spec, name, namespace=namespace)


POLICIES = (
    deny("a", "shop", "/shop/a", TO_CART)
    + deny("b", "shop", "/shop/b", TO_SERVICE)
    + deny("c", "edge", "/shop/c, /edge")
    + deny("d", "edge", "/gateway", TO_GATEWAY)
)
SERVER_NAMES = {"shop.example.org", "other.example.org"}


def typed(message, **fields):
    return {"@type": f"{EXT}.{message}", **fields}


def route(prefix, **extensions):
    named = {f"meshward.{name}": value for name, value in extensions.items()}
    per_route = typed("filters.http.ext_authz.v3.ExtAuthzPerRoute", check_settings={"context_extensions": named})
    found = {"match": {"prefix": prefix}, "direct_response": {"status": 200}}
    return found | ({"typed_per_filter_config": {FILTER: per_route}} if named else {})


CHECK = {"transport_api_version": "V3", "include_tls_session": True, "bootstrap_metadata_labels_key": "labels"}
GRPC = {"grpc_service": {"envoy_grpc": {"cluster_name": "authz"}, "timeout": "20s"}}


def manager():
    routes = [
        route("/shop", namespace="shop", labels="app=cart,meshward.io/service=cart"),
        route("/stock", namespace="stock"),
        route("/"),
    ]
    return typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="in",
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        http_filters=[
            {"name": FILTER, "typed_config": typed("filters.http.ext_authz.v3.ExtAuthz", **CHECK, **GRPC)},
            {"name": "router", "typed_config": typed("filters.http.router.v3.Router")},
        ],
    )


def listener(name, filters, certificate):
    """A listener over TLS that asks its client for no certificate."""
    key, chain = certificate
    pair = {"certificate_chain": {"inline_string": chain}, "private_key": {"inline_string": key}}
    tls = typed("transport_sockets.tls.v3.DownstreamTlsContext", common_tls_context={"tls_certificates": [pair]})
    return {
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "listener_filters": [{"name": "tls", "typed_config": typed("filters.listener.tls_inspector.v3.TlsInspector")}],
        "filter_chains": [{"transport_socket": {"name": "tls", "typed_config": tls}, "filters": filters}],
    }


def bootstrap(port):
    mesh = MeshCa(domain="cluster.local")

    def certificate(**names):
        key = new_key()
        leaf = mesh.leaf(key.public_key(), datetime.now(UTC), **names)
        return key_pem(key).decode(), pem(leaf) + mesh.signer.pem

    http = [{"name": "http", "typed_config": manager()}]
    check = typed(
        "filters.network.ext_authz.v3.ExtAuthz", stat_prefix="check", failure_mode_allow=True, **CHECK, **GRPC
    )
    tcp = [
        {"name": "check", "typed_config": check},
        {"name": "echo", "typed_config": typed("filters.network.echo.v3.Echo")},
    ]
    options = typed("upstreams.http.v3.HttpProtocolOptions", explicit_http_config={"http2_protocol_options": {}})
    name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        "node": {"id": "test", "cluster": "test", "metadata": {"labels": LABELS}},
        "static_resources": {
            "listeners": [
                listener("web", http, certificate(uris=(), dns=("shop.example.org",))),
                listener("svid", http, certificate(uris=(GATEWAY,))),
                listener("tcp", tcp, certificate(uris=(SHOP,))),
            ],
            "clusters": [cluster("authz", port, typed_extension_protocol_options={name: options})],
        },
    }


class Client:
    """Asks the listeners of an Envoy over TLS, with a server name and without a certificate."""

    def __init__(self, envoy):
        self._envoy = envoy
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._tls.check_hostname, self._tls.verify_mode = False, ssl.CERT_NONE

    async def sent(self, name, data, server_name="shop.example.org"):
        port = await self._envoy.port_of(name)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=self._tls, server_hostname=server_name)
        writer.write(data)
        try:
            async with asyncio.timeout(20):
                return await reader.read(100)
        except ConnectionError:
            return b""
        finally:
            writer.close()

    async def status(self, name, path):
        answer = await self.sent(name, f"GET {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n".encode())
        return int(answer.split()[1])


@asynccontextmanager
async def gateway(directory, text, **given):
    async with served_authz(text, **given) as served, EnvoyProcess.started(bootstrap(served.port), directory) as envoy:
        yield Client(envoy)


@pytest.mark.parametrize("speaks", [True, False])
async def test_a_gateway_asks_about_the_workloads_of_its_routes(tmp_path, speaks):
    gateways = Gateways({GATEWAY: frozenset({"shop"})} if speaks else {})
    async with gateway(tmp_path, POLICIES, gateways=gateways) as client:
        # A certificate of the web says nothing of the mesh: what a route does not name is unknown.
        for path, status in {"/shop/x": 200, "/shop/a": 403, "/shop/b": 403, "/shop/c": 200, "/": 403}.items():
            assert await client.status("web", path) == status, path
        in_shop = 200 if speaks else 403
        for path, status in {"/shop/x": in_shop, "/shop/a": 403, "/shop/b": 403, "/shop/c": in_shop}.items():
            assert await client.status("svid", path) == status, path
        for path, status in {"/": 200, "/edge": 403, "/gateway": 403, "/stock": 403}.items():
            assert await client.status("svid", path) == status, path


@pytest.mark.parametrize(
    ("spec", "passing"),
    [
        ("{rules: [{when: [{key: connection.sni, values: [shop.example.org]}]}]}", {"shop.example.org"}),
        ("{action: DENY, rules: [{when: [{key: connection.sni, values: ['shop.*']}]}]}", {"other.example.org"}),
        ("{rules: [{from: [{source: {principals: ['*']}}]}]}", set()),
        ("{action: DENY, rules: [{from: [{source: {notPrincipals: ['*']}}]}]}", set()),
        (
            "{action: DENY, rules: [{from: [{source: {principals: ['*/sa/cart']}}]}]}",
            {"shop.example.org", "other.example.org"},
        ),
    ],
)
async def test_connections_over_tls_are_judged_by_their_server_name_without_a_peer_certificate(tmp_path, spec, passing):
    async with gateway(tmp_path, policy(spec)) as client:
        for name in SERVER_NAMES:
            assert (await client.sent("tcp", b"hello", name) == b"hello") is (name in passing), name
