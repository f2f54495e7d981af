"""What a provider has a real Envoy change, that asks over gRPC and over HTTP; and what a route overrides."""

import asyncio
from contextlib import asynccontextmanager

import httpx
import pytest

from app.authz.providers import Answer, Changes
from tests.fakes.authz import policy
from tests.fakes.served_authz import served_authz
from tests.support.echo import echo
from tests.support.envoy_process import EnvoyProcess, cluster

EXT = "type.googleapis.com/envoy.extensions"
FILTER = "envoy.filters.http.ext_authz"
METADATA = f"%DYNAMIC_METADATA({FILTER}:role)%"


def provider(request):
    """Decides by the path."""
    http = request.attributes({"request": {"http": {}}})["request"]["http"]
    match http["path"].partition("?")[0]:
        case "/changed":
            return Answer(
                changes=Changes(
                    headers=(("x-a", "new"), ("x-b", "added")),
                    response_headers=(("x-checked", "yes"),),
                    headers_to_remove=("x-secret",),
                    query_to_set=(("tenant", "a b&admin=1\r\nx: y#%zz%20"),),
                    query_to_remove=("debug",),
                    metadata='{"role": "guest"}',
                )
            )
        case "/tier":
            return Answer(changes=Changes(headers=(("x-tier", "gold"),)))
        case "/login":
            location = (("location", "https://login.example.org/?from=a"), ("set-cookie", "a=1"), ("set-cookie", "b=2"))
            return Answer("no session", Changes(headers=location, status=302, body="log in"))
        case "/teapot":
            return Answer("no coffee", Changes(status=418, body=""))
        case "/broken":
            return Answer("no", Changes(status=503, body="down"))
        case _:
            return Answer(f"no; body {len(http.get('body', ''))}")


def typed(message, **fields):
    return {"@type": f"{EXT}.{message}", **fields}


def check(kind):
    common = {
        "transport_api_version": "V3",
        "with_request_body": {"max_request_bytes": 1024},
    }
    if kind == "grpc":
        return common | {"grpc_service": {"envoy_grpc": {"cluster_name": "authz"}, "timeout": "20s"}}
    patterns = {"patterns": [{"prefix": "x-"}, {"exact": "location"}, {"exact": "set-cookie"}]}
    named = {"key": "x-meshward-namespace", "value": "shop"}
    return common | {
        "http_service": {
            "server_uri": {"uri": "http://authz", "cluster": "authz", "timeout": "20s"},
            "path_prefix": "/ext_authz",
            "authorization_request": {"headers_to_add": [named]},
            "authorization_response": {
                "allowed_upstream_headers": patterns,
                "allowed_client_headers": patterns,
                "allowed_client_headers_on_success": patterns,
            },
        },
    }


def route(prefix, override=None):
    found = {"match": {"prefix": prefix}, "route": {"cluster": "upstream"}}
    if override is not None:
        found["typed_per_filter_config"] = {FILTER: typed("filters.http.ext_authz.v3.ExtAuthzPerRoute", **override)}
    return found


NAMED = {"context_extensions": {"meshward.namespace": "shop"}}
GOLD = {"name": "x-tier", "string_match": {"exact": "gold"}}
ROUTES = [
    {"match": {"prefix": "/", "headers": [GOLD]}, "direct_response": {"status": 207}},
    route("/unbuffered", {"check_settings": NAMED | {"disable_request_body_buffering": True}}),
    route("/smaller", {"check_settings": NAMED | {"with_request_body": {"max_request_bytes": 4}}}),
    route("/elsewhere", {"check_settings": {"context_extensions": {"meshward.namespace": "other"}}}),
    route("/unchecked", {"disabled": True}),
    route("/", {"check_settings": NAMED}),
]


def listener(kind):
    host = {
        "name": "all",
        "domains": ["*"],
        "routes": ROUTES,
        "request_headers_to_add": [{"header": {"key": "x-role", "value": METADATA}}],
    }
    value = typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=kind,
        route_config={"virtual_hosts": [host]},
        http_filters=[
            {"name": FILTER, "typed_config": typed("filters.http.ext_authz.v3.ExtAuthz", **check(kind))},
            {"name": "router", "typed_config": typed("filters.http.router.v3.Router")},
        ],
    )
    return {
        "name": kind,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": value}]}],
    }


@asynccontextmanager
async def asking(directory, kind):
    custom = policy("{action: CUSTOM, provider: {name: p}, rules: [{}]}")
    upstream = await asyncio.start_server(echo, "127.0.0.1", 0)
    options = typed("upstreams.http.v3.HttpProtocolOptions", explicit_http_config={"http2_protocol_options": {}})
    http2 = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}
    async with upstream, served_authz(custom, providers={"p": provider}) as served:
        clusters = [
            cluster("authz", served.port, typed_extension_protocol_options=http2),
            cluster("upstream", upstream.sockets[0].getsockname()[1]),
        ]
        made = {"static_resources": {"listeners": [listener(kind)], "clusters": clusters}}
        async with EnvoyProcess.started(made, directory) as envoy:
            port = await envoy.port_of(kind)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                yield client


@pytest.mark.parametrize("kind", ["grpc", "http"])
async def test_a_request_that_passes_is_changed(tmp_path, kind):
    async with asking(tmp_path, kind) as client:
        passed = await client.get("/changed?debug=1&x=2", headers={"x-a": "old", "x-secret": "s"})
        assert (passed.status_code, passed.headers["x-checked"]) == (200, "yes")
        seen = passed.json()
        assert (seen["headers"]["x-a"], seen["headers"]["x-b"]) == ("new", "added")
        assert "x-secret" not in seen["headers"]
        over_grpc = kind == "grpc"
        # A check over HTTP has no answer for these two.
        assert seen["target"] == (
            "/changed?tenant=a%20b%26admin=1%0D%0Ax:%20y%23%25zz%20&x=2" if over_grpc else "/changed?debug=1&x=2"
        )
        assert seen["headers"].get("x-role", "-") == ("guest" if over_grpc else "-")


@pytest.mark.parametrize("kind", ["grpc", "http"])
async def test_a_denial_has_status_headers_and_body(tmp_path, kind):
    async with asking(tmp_path, kind) as client:
        login = await client.get("/login")
        assert (login.status_code, login.text) == (302, "log in")
        assert login.headers["location"] == "https://login.example.org/?from=a"
        assert login.headers.get_list("set-cookie") == ["a=1", "b=2"]
        teapot = await client.get("/teapot")
        assert (teapot.status_code, teapot.text) == (418, "")
        broken = await client.get("/broken")
        # Over HTTP a 5xx would be an error, which failure_mode_allow lets pass.
        assert (broken.status_code, broken.text) == (503 if kind == "grpc" else 403, "down")
        own = await client.get("/own")
        assert own.status_code == 403
        assert "policy shop/p" in own.text


@pytest.mark.parametrize("kind", ["grpc", "http"])
async def test_a_request_goes_where_it_was_checked_for(tmp_path, kind):
    """A header that is set after the route was chosen chooses no other one, whose check would be another one."""
    async with asking(tmp_path, kind) as client:
        passed = await client.get("/tier")
        assert (passed.status_code, passed.json()["headers"]["x-tier"]) == (200, "gold")


@pytest.mark.parametrize("kind", ["grpc", "http"])
async def test_a_route_overrides_the_body_the_workload_and_whether_there_is_a_check(tmp_path, kind):
    async with asking(tmp_path, kind) as client:
        assert "no; body 5" in (await client.post("/any", content="hello")).text
        assert "no; body 0" in (await client.post("/unbuffered", content="hello")).text
        assert (await client.post("/smaller", content="hello")).status_code == 413
        assert "no; body 3" in (await client.post("/smaller", content="hel")).text
        assert (await client.post("/unchecked", content="hello")).status_code == 200
        # No policy of that namespace asks the provider; over HTTP Envoy does not send what a route names.
        elsewhere = await client.post("/elsewhere", content="hello")
        assert elsewhere.status_code == (200 if kind == "grpc" else 403)
