"""A real Envoy that asks this service over gRPC, failing open, and over HTTP, as open as that may be configured."""

import asyncio
import json

import httpx
import pytest

from tests.fakes.authz import policy
from tests.fakes.served_authz import served_authz
from tests.support.envoy_process import EnvoyProcess

EXT = "envoy.extensions"
FILTER = "envoy.filters.http.ext_authz"
LABELS = "app=shop,version=v1"


def typed(name, **fields):
    return {"@type": f"type.googleapis.com/{name}", **fields}


def socket(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def grpc_check():
    return {
        "grpc_service": {"envoy_grpc": {"cluster_name": "meshward"}, "timeout": "10s"},
        "encode_raw_headers": True,
        "bootstrap_metadata_labels_key": "labels",
    }


def http_check():
    set_by_proxy = {
        "x-meshward-namespace": "shop",
        "x-meshward-labels": LABELS,
        "x-meshward-destination-ip": "%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%",
        "x-meshward-destination-port": "%DOWNSTREAM_LOCAL_PORT%",
        "x-meshward-source-ip": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%",
    }
    headers = [{"key": key, "value": value} for key, value in set_by_proxy.items()]
    return {
        "http_service": {
            "server_uri": {"uri": "http://meshward", "cluster": "meshward", "timeout": "10s"},
            "path_prefix": "/ext_authz",
            "authorization_request": {"headers_to_add": headers},
        },
        # As open as an operator can make it.
        "allowed_headers": {"patterns": [{"safe_regex": {"regex": ".*"}}]},
    }


def manager(name, check, directory, *, fail_open):
    authorization = typed(
        f"{EXT}.filters.http.ext_authz.v3.ExtAuthz", transport_api_version="V3", failure_mode_allow=fail_open, **check
    )
    named = typed(
        f"{EXT}.filters.http.ext_authz.v3.ExtAuthzPerRoute",
        check_settings={"context_extensions": {"meshward.namespace": "shop"}},
    )
    metadata = {key: f"%DYNAMIC_METADATA({FILTER}:meshward.{key})%" for key in ("decision", "policy", "rule", "reason")}
    log = typed(
        f"{EXT}.access_loggers.file.v3.FileAccessLog",
        path=str(directory / f"{name}.log"),
        log_format={"json_format": metadata},
    )
    host = {
        "name": "all",
        "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
        "typed_per_filter_config": {FILTER: named},
    }
    value = typed(
        f"{EXT}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=name,
        normalize_path=False,
        route_config={"name": name, "virtual_hosts": [host]},
        access_log=[{"name": "file", "typed_config": log}],
        access_log_options={"flush_access_log_on_new_request": False},
        http_filters=[
            {"name": FILTER, "typed_config": authorization},
            {"name": "router", "typed_config": typed(f"{EXT}.filters.http.router.v3.Router")},
        ],
    )
    filters = [{"name": "http", "typed_config": value}]
    return {"name": name, "address": socket(0), "filter_chains": [{"filters": filters}]}


def bootstrap(port, directory):
    options = typed(f"{EXT}.upstreams.http.v3.HttpProtocolOptions", explicit_http_config={"http2_protocol_options": {}})
    meshward = {
        "name": "meshward",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {f"{EXT}.upstreams.http.v3.HttpProtocolOptions": options},
        "load_assignment": {
            "cluster_name": "meshward",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket(port)}}]}],
        },
    }
    return {
        "node": {"id": "test", "cluster": "test", "metadata": {"labels": {"app": "shop", "version": "v1"}}},
        "static_resources": {
            "listeners": [
                manager("grpc", grpc_check(), directory, fail_open=True),
                # Over HTTP a server may refuse a path before the service sees it, and Envoy takes that for an error.
                manager("http", http_check(), directory, fail_open=False),
                manager("http_open", http_check(), directory, fail_open=True),
            ],
            "clusters": [meshward],
        },
    }


class Gateway:
    """One listener of a running Envoy, and the service that it asks."""

    def __init__(self, served, envoy, kind, port):
        self.served, self.envoy, self.kind, self.port = served, envoy, kind, port

    async def get(self, path="/", *, method="GET", **headers):
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}") as client:
            return await client.request(
                method, path, headers={key.replace("_", "-"): value for key, value in headers.items()}
            )

    async def raw(self, target, *lines, method="GET", host="shop.example.org"):
        """The status of a request whose target no client library has touched."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Connection: close", *lines, "", ""]
        writer.write("\r\n".join(head).encode("latin-1"))
        async with asyncio.timeout(20):
            answer = await reader.read()
        writer.close()
        return int(answer.split()[1])


@pytest.fixture
async def gateways(tmp_path):
    async with (
        served_authz() as served,
        EnvoyProcess.started(bootstrap(served.port, tmp_path), tmp_path) as envoy,
    ):
        kinds = ("grpc", "http", "http_open")
        yield {kind: Gateway(served, envoy, kind, await envoy.port_of(kind)) for kind in kinds}


@pytest.fixture(params=["grpc", "http"])
def gateway(request, gateways):
    return gateways[request.param]


ADMIN = policy(
    "{selector: {matchLabels: {app: shop}}, action: DENY, rules: [{to: [{operation: {paths: [/admin, '/admin/*']}}]}]}",
    "no-admin",
)


async def test_a_policy_change_takes_effect_on_the_next_request_and_the_client_gets_the_rule(gateway):
    assert (await gateway.get("/admin")).status_code == 200
    await gateway.served.apply(ADMIN)
    denied = await gateway.get("/admin")
    assert denied.status_code == 403
    assert denied.headers["x-meshward-decision"] == "deny; policy=shop/no-admin; rule=rules[0]"
    assert denied.headers["content-type"] == "text/plain; charset=utf-8"
    assert denied.text.startswith("GET /admin was denied")
    assert (await gateway.get("/hello")).status_code == 200
    await gateway.served.service.delete("shop", "no-admin")
    assert (await gateway.get("/admin")).status_code == 200


SPELLINGS = (
    "/admin",
    "/admin?x=/hello",
    "//admin",
    "/./admin",
    "/hello/../admin",
    "/hello/%2e%2e/admin",
    "/%61dmin",
    "/admin%2fusers",
    "/admin%5cusers",
    "/hello%2f..%2fadmin",
    "/hello/..%5cadmin",
    "\\admin",
    "/admin;x=y",
    "/hello/..;/admin",
    "/%2561dmin",
    "/%252e%252e/admin",
    "/admin/",
    "/admin#x",
    "/admin%00",
    "/admin%zz",
    "/%c0%afadmin",
    "http://other.example.org/admin",
    "/hello\xff",
)


async def test_no_spelling_of_a_denied_path_passes(gateway):
    await gateway.served.apply(ADMIN)
    passed = [target for target in SPELLINGS if await gateway.raw(target) not in {400, 403}]
    assert passed == []
    assert await gateway.raw("/hello") == 200


async def test_methods_hosts_headers_addresses_and_ports_are_matched(gateway):
    spec = f"""{{rules: [{{
        from: [{{source: {{ipBlocks: [127.0.0.0/8]}}}}],
        to: [{{operation: {{methods: [GET], hosts: [shop.example.org], ports: ['{gateway.port}']}}}}],
        when: [{{key: 'request.headers[x-role]', values: [admin]}},
               {{key: destination.ip, values: [127.0.0.1]}}]}}]}}"""
    await gateway.served.apply(policy(spec))
    good = {"host": "SHOP.example.org", "x_role": "admin"}
    assert (await gateway.get("/", **good)).status_code == 200
    assert (await gateway.get("/", method="POST", **good)).status_code == 403
    assert (await gateway.get("/", **good | {"host": "other"})).status_code == 403
    assert (await gateway.get("/", **good | {"x_role": "user"})).status_code == 403
    assert await gateway.raw("/", "x-role: admin") == 200
    assert await gateway.raw("/", "x-role: admin", "x-role: user") == 403
    assert await gateway.raw("/", "x-role: admin, user") == 403
    assert await gateway.raw("/", "x-role: admin", "x-http-method-override: DELETE") == 403


async def test_what_a_client_forges_changes_nothing(gateway):
    await gateway.served.apply(
        ADMIN
        + policy(
            "{action: DENY, rules: [{from: [{source: {ipBlocks: [127.0.0.1]}}], to: [{operation: {paths: [/ip]}}]}]}",
            "by-ip",
        )
    )
    forged = {
        "x_meshward_namespace": "other",
        "x_meshward_labels": "app=other",
        "x_meshward_source_ip": "203.0.113.9",
        "x_envoy_original_path": "/hello",
        "x_original_url": "/hello",
        "x_forwarded_for": "203.0.113.9",
    }
    assert (await gateway.get("/admin", **forged)).status_code == 403
    assert (await gateway.get("/ip", **forged)).status_code == 403
    assert (await gateway.get("/hello", **forged)).status_code == 200
    as_grpc = {"content_type": "application/grpc", "te": "trailers"}
    answer = await gateway.get("/admin", method="POST", **as_grpc)
    # Envoy answers a gRPC client's denial in gRPC's own way: HTTP 200 with the status PERMISSION_DENIED.
    assert answer.headers.get("grpc-status") == "7" or answer.status_code == 403


@pytest.mark.parametrize("kind", ["grpc", "http_open"])
async def test_an_internal_error_is_denied_although_the_sidecar_fails_open(gateways, kind, monkeypatch):
    from app.authz.rules.evaluate import NativeEngine

    def broken(*_):
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(NativeEngine, "evaluate", broken)
    gateway = gateways[kind]
    assert (await gateway.get("/hello")).status_code == 403
    assert gateway.served.metrics.decisions.value("deny", "error") == 1


async def test_the_access_log_names_the_policy_and_the_rule(gateways):
    gateway = gateways["grpc"]
    await gateway.served.apply(ADMIN)
    await gateway.get("/admin")
    log = gateway.envoy.directory / "grpc.log"
    line = await gateway.envoy.eventually(lambda: log.exists() and log.read_text(), "the access log")
    assert json.loads(line) == {
        "decision": "deny",
        "policy": "shop/no-admin",
        "rule": "rules[0]",
        "reason": "denied by rules[0] of policy shop/no-admin",
    }
