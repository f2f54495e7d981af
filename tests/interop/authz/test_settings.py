"""Settings that change how a check is read, through a real Envoy and a control plane that runs as a process."""

from datetime import UTC, datetime

import httpx
import pytest

from tests.assets.certificates import MeshCa, key_pem, new_key, pem
from tests.fakes.authz import policy
from tests.support.envoy_process import EnvoyProcess
from tests.support.sidecar import ask, client_tls

EXT = "envoy.extensions"
FRONT = "spiffe://cluster.local/ns/web/sa/front"
SHOP = "spiffe://cluster.local/ns/shop/sa/shop"


def typed(name, **fields):
    return {"@type": f"type.googleapis.com/{EXT}.{name}", **fields}


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def grpc_check():
    return {"grpc_service": {"envoy_grpc": {"cluster_name": "meshward"}, "timeout": "10s"}, "encode_raw_headers": True}


def http_check():
    proxy_headers = {
        "x-meshward-namespace": "shop",
        "x-meshward-source-ip": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%",
    }
    return {
        "http_service": {
            "server_uri": {"uri": "http://meshward", "cluster": "meshward", "timeout": "10s"},
            "path_prefix": "/ext_authz",
            "authorization_request": {
                "headers_to_add": [{"key": key, "value": value} for key, value in proxy_headers.items()]
            },
        },
        "allowed_headers": {"patterns": [{"exact": "x-forwarded-for"}, {"exact": "x-forwarded-client-cert"}]},
    }


def manager(check):
    extensions = {"check_settings": {"context_extensions": {"meshward.namespace": "shop"}}}
    value = typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="in",
        use_remote_address=True,
        xff_num_trusted_hops=1,
        forward_client_cert_details="SANITIZE_SET",
        set_current_client_cert_details={"uri": True},
        route_config={
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
                    "typed_per_filter_config": {
                        "authz": typed("filters.http.ext_authz.v3.ExtAuthzPerRoute", **extensions)
                    },
                }
            ]
        },
        http_filters=[
            {
                "name": "authz",
                "typed_config": typed("filters.http.ext_authz.v3.ExtAuthz", transport_api_version="V3", **check),
            },
            {"name": "router", "typed_config": typed("filters.http.router.v3.Router")},
        ],
    )
    return {"name": "http", "typed_config": value}


def mutual_tls(mesh):
    key = new_key()
    leaf = mesh.leaf(key.public_key(), datetime.now(UTC), uris=(SHOP,))
    chain = pem(leaf) + pem(mesh.signer.certificate)
    common = {
        "tls_certificates": [
            {"certificate_chain": {"inline_string": chain}, "private_key": {"inline_string": key_pem(key).decode()}}
        ],
        "validation_context": {"trusted_ca": {"inline_string": mesh.roots}},
    }
    context = typed(
        "transport_sockets.tls.v3.DownstreamTlsContext", require_client_certificate=True, common_tls_context=common
    )
    return {"name": "tls", "typed_config": context}


def bootstrap(port, mesh):
    listeners = [
        {
            "name": f"{name}-{kind}",
            "address": address(0),
            "filter_chains": [{"filters": [manager(check)], **transport}],
        }
        for name, check in (("grpc", grpc_check()), ("http", http_check()))
        for kind, transport in (("plain", {}), ("mtls", {"transport_socket": mutual_tls(mesh)}))
    ]
    options = typed("upstreams.http.v3.HttpProtocolOptions", explicit_http_config={"http2_protocol_options": {}})
    cluster = {
        "name": "meshward",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {f"{EXT}.upstreams.http.v3.HttpProtocolOptions": options},
        "load_assignment": {
            "cluster_name": "meshward",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}],
        },
    }
    return {"static_resources": {"listeners": listeners, "clusters": [cluster]}}


@pytest.fixture
def matching():
    return "istio"


@pytest.fixture
async def mesh(serving, tmp_path, matching):
    server = serving.start(
        authz_matching=matching,
        authz_trusted_hops=1,
        authz_trust_domain_aliases="old.example.org, older.example.org",
        authz_trust_forwarded_client_cert="true",
    )
    mesh = MeshCa()
    async with EnvoyProcess.started(bootstrap(server.plaintext_port, mesh), tmp_path / "envoy") as envoy:
        yield server, mesh, envoy


async def status(envoy, name, forwarded=None):
    headers = {} if forwarded is None else {"x-forwarded-for": forwarded}
    async with httpx.AsyncClient() as client:
        return (await client.get(f"http://127.0.0.1:{await envoy.port_of(name)}/", headers=headers)).status_code


@pytest.mark.parametrize("matching", ["istio", "strict"])
@pytest.mark.parametrize("kind", ["grpc", "http"])
async def test_remote_ip_is_the_client_that_the_trusted_proxy_saw(mesh, kind, matching):
    server, _, envoy = mesh
    server.post_policies(
        policy("{action: DENY, rules: [{from: [{source: {remoteIpBlocks: [203.0.113.0/24]}}]}]}", "by-client")
    )
    assert await status(envoy, f"{kind}-plain", "203.0.113.9") == 403
    assert await status(envoy, f"{kind}-plain", "198.51.100.1") == 200
    # What a client writes in front of the trusted proxy's entry is not believed, in either direction.
    assert await status(envoy, f"{kind}-plain", "198.51.100.1, 203.0.113.9") == 403
    assert await status(envoy, f"{kind}-plain", "203.0.113.9, 198.51.100.1") == 200
    # Without the proxy's entry the client is the peer, as to Envoy; or unknown, and a rule that denies by it denies.
    assert await status(envoy, f"{kind}-plain") == (403 if matching == "strict" else 200)


@pytest.mark.parametrize("kind", ["grpc", "http"])
async def test_a_principal_of_an_alias_is_the_trust_domains_own(mesh, kind):
    server, ca, envoy = mesh
    key = new_key()
    leaf = ca.leaf(key.public_key(), datetime.now(UTC), uris=(FRONT,))
    context = client_tls(ca.roots, key, (leaf, ca.signer.certificate))

    async def answer(principal):
        server.post_policies(
            policy(f"{{rules: [{{from: [{{source: {{principals: [{principal}]}}}}]}}]}}", "by-principal")
        )
        line, _ = await ask(await envoy.port_of(f"{kind}-mtls"), context)
        return int(line.split()[1])

    assert await answer("old.example.org/ns/web/sa/front") == 200
    assert await answer("older.example.org/ns/web/sa/front") == 200
    assert await answer("other.example.org/ns/web/sa/front") == 403
