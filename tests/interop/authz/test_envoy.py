"""A real Envoy that asks this service over gRPC, failing open, and over HTTP, as open as that may be configured."""

import asyncio
import json
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import httpx
import pytest

from app.authz.model import Cause, Verdict
from app.core.decision import Decision, Outcome
from app.core.net import Address
from app.envoy.bootstrap import bootstrap as sidecar_bootstrap
from app.envoy.sidecar import ControlPlane, Inbound, Protocol, Sidecar
from app.spiffe.id import SpiffeId
from tests.fakes.authz import policy
from tests.fakes.served_authz import served_authz
from tests.support.envoy_process import EnvoyProcess

EXT = "envoy.extensions"
FILTER = "envoy.filters.http.ext_authz"


def typed(name, **fields):
    return {"@type": f"type.googleapis.com/{name}", **fields}


def socket(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def generated_check(protocol):
    """The external authorization of the bootstrap that `meshward envoy bootstrap` writes."""
    generated = sidecar_bootstrap(
        Sidecar(
            SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/api"),
            admin=Address("127.0.0.1", 0),
            sds_socket="/unused",
            control_plane=ControlPlane(Address("127.0.0.1", 1), "unused"),
            inbound=(Inbound("inbound", Address("127.0.0.1", 0), Address("127.0.0.1", 1), protocol),),
            labels={"app": "shop", "version": "v1"},
        )
    )
    (listener,) = generated["static_resources"]["listeners"]
    filters = listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
    return next(deepcopy(each["typed_config"]) for each in filters if each["name"] == FILTER)


def grpc_check():
    return generated_check(Protocol.GRPC)


def http_check(allowed=None, declared=None):
    """With `allowed`, only headers that match these patterns go with the check, none is withheld, and `declared` is
    what the proxy declares of them, if it declares anything.
    """
    check = generated_check(Protocol.HTTP)
    added = check["http_service"]["authorization_request"]["headers_to_add"]
    added.append({"key": "x-meshward-namespace", "value": "shop"})
    if allowed is not None:
        check["allowed_headers"] = {"patterns": allowed}
        check.pop("disallowed_headers", None)
        added[:] = [each for each in added if each["key"] != "x-meshward-forwarded-headers"]
        if declared is not None:
            added.append({"key": "x-meshward-forwarded-headers", "value": declared})
    return check


def patient(check):
    """Give a check, and each try of it, more time than any machine needs."""
    service = check.get("grpc_service") or check["http_service"]
    service.get("server_uri", service)["timeout"] = "10s"
    service["retry_policy"]["retry_back_off"]["max_interval"] = "10s"
    return check


ANY_HEADER = {"safe_regex": {"regex": ".*"}}
# Connection managers by name, and how each of them asks.
CHECKS: dict[str, Callable[[], dict[str, Any]]] = {
    "grpc": grpc_check,
    # Over HTTP a server may refuse a path before the service sees it, and Envoy takes that for an error.
    "http": http_check,
    "http_open": http_check,
    # A configuration from before proxies declared anything, and others as open as an operator can make them.
    "http_undeclared": partial(http_check, [{"exact": "x-forwarded-client-cert"}]),
    "http_role": partial(http_check, [{"prefix": "x-r"}], "x-role"),
    "http_all": partial(http_check, [ANY_HEADER], "*"),
}


def manager(name, check, directory, *, fail_open):
    authorization = check | {"failure_mode_allow": fail_open}
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
        upgrade_configs=[{"upgrade_type": "websocket"}],
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


def bootstrap(port, directory, change=patient):
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
                manager(name, change(check()), directory, fail_open=name in {"grpc", "http_open"})
                for name, check in CHECKS.items()
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

    async def raw(self, target, *lines, method="GET", host="shop.example.org", connection="close"):
        """The status of a request whose target no client library has touched."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = [f"{method} {target} HTTP/1.1", f"Host: {host}", f"Connection: {connection}", *lines, "", ""]
        writer.write("\r\n".join(head).encode("latin-1"))
        async with asyncio.timeout(20):
            answer = await reader.read()
        writer.close()
        return int(answer.split()[1])


class SlowEngine:
    """Allows every request, after a while."""

    def __init__(self):
        self.asked = 0

    async def evaluate(self, _request):
        self.asked += 1
        await asyncio.sleep(0.7)
        return Verdict(Decision(Outcome.ALLOW, "after a while"), Cause.POLICY)


def ten_times_slower(check):
    """Give a check ten times the time that the bootstrap gives it, and each try of it as well."""
    service = check.get("grpc_service") or check["http_service"]
    back_off = service["retry_policy"]["retry_back_off"]
    for place, name in ((service.get("server_uri", service), "timeout"), (back_off, "max_interval")):
        place[name] = f"{float(place[name].removesuffix('s')) * 10}s"
    return check


@pytest.mark.parametrize("kind", ["grpc", "http"])
async def test_a_slow_check_is_waited_for_and_not_repeated(kind, tmp_path):
    engine = SlowEngine()
    async with (
        served_authz(engine=engine) as served,
        EnvoyProcess.started(bootstrap(served.port, tmp_path, ten_times_slower), tmp_path) as envoy,
    ):
        assert await Gateway(served, envoy, kind, await envoy.port_of(kind)).raw("/") == 200
    assert engine.asked == 1


@pytest.fixture
async def gateways(tmp_path):
    async with (
        served_authz() as served,
        EnvoyProcess.started(bootstrap(served.port, tmp_path), tmp_path) as envoy,
    ):
        yield {kind: Gateway(served, envoy, kind, await envoy.port_of(kind)) for kind in CHECKS}


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


async def test_pseudo_headers_are_matched_as_the_client_sent_them(gateway):
    spec = """{rules: [{when: [{key: 'request.headers[:authority]', values: [Shop.example.org]},
                               {key: 'request.headers[:path]', values: ['/a?b=1']},
                               {key: 'request.headers[:method]', values: [GET]}]}]}"""
    await gateway.served.apply(policy(spec))
    assert await gateway.raw("/a?b=1", host="Shop.example.org") == 200
    assert await gateway.raw("/a?b=1", host="shop.example.org") == 403
    assert await gateway.raw("/a?b=2", host="Shop.example.org") == 403
    assert await gateway.raw("/a?b=1", host="Shop.example.org", method="POST") == 403


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


DENY_ROLE = policy("{action: DENY, rules: [{when: [{key: 'request.headers[x-role]', values: [admin]}]}]}")
DENY_DELETE = policy("{action: DENY, rules: [{to: [{operation: {methods: [DELETE]}}]}]}")
FORGED = ("x-meshward-forwarded-headers: *", "X-Meshward-Forwarded-Headers: x-role, x-http-*, x-method-override")


@pytest.mark.parametrize("kind", CHECKS)
async def test_a_denied_header_never_passes_and_an_absent_one_only_where_the_proxy_would_have_told(gateways, kind):
    gateway = gateways[kind]
    await gateway.served.apply(DENY_ROLE)
    for forged in ((), FORGED[:1], FORGED[1:], FORGED):
        assert await gateway.raw("/", "x-role: admin", *forged) == 403
        assert await gateway.raw("/", "x-role: user", "x-role: admin", *forged) == 403
        assert await gateway.raw("/", *forged) == (403 if kind == "http_undeclared" else 200)
    if kind != "http_undeclared":
        assert await gateway.raw("/", "x-role: user") == 200


@pytest.mark.parametrize("kind", CHECKS)
async def test_a_header_never_overrides_a_method_unseen(gateways, kind):
    gateway = gateways[kind]
    await gateway.served.apply(DENY_DELETE)
    is_told = kind not in {"http_undeclared", "http_role"}
    for forged in ((), FORGED):
        assert await gateway.raw("/", "x-http-method-override: DELETE", *forged, method="POST") == 403
        assert await gateway.raw("/", "x-method-override: delete", *forged, method="POST") == 403
        assert await gateway.raw("/", *forged, method="POST") == (200 if is_told else 403)


async def test_an_upgrade_and_a_header_that_envoy_acts_upon_reach_the_workload_and_not_the_check(gateways):
    gateway = gateways["http"]
    upgrade = ("Upgrade: websocket", "x-envoy-upstream-rq-timeout-ms: 1")
    assert await gateway.raw("/", *upgrade, connection="upgrade") == 200
    text = "{action: DENY, rules: [{when: [{key: 'request.headers[upgrade]', values: [a]}]}]}"
    await gateway.served.apply(policy(text))
    assert await gateway.raw("/", *upgrade, connection="upgrade") == 403


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
