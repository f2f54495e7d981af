"""A real Envoy, configured as for OPA-Envoy but for the address, whose requests are decided by Rego; it fails open."""

import asyncio
import gzip
from contextlib import asynccontextmanager

import httpx
import pytest

from app.authz.backends.grpc_messages import GrpcMessages
from app.authz.backends.policy_source import PathSource
from app.authz.backends.rego import RegoOptions, RegoProvider
from app.core.clock import SystemClock
from tests.assets.descriptors import ITEM, descriptor_set, frame
from tests.fakes.authz import policy
from tests.fakes.served_authz import served_authz
from tests.support.echo import echo
from tests.support.envoy_process import EnvoyProcess, cluster

# In the manner of OPA-Envoy's documentation: roles by user, an object with headers, a body that is looked into.
REGO = """package envoy.authz

import input.attributes.request.http as http

default allow := {
    "allowed": false,
    "headers": {"x-denied-by": "rego"},
    "body": "no such permission",
    "http_status": 401,
}

allow := response if {
    some permission in permissions[roles[http.headers["x-user"]]]
    permission.method == http.method
    glob.match(permission.path, ["/"], http.path)
    not input.parsed_body.admin == true
    response := {
        "allowed": true,
        "headers": {"x-role": roles[http.headers["x-user"]]},
        "request_headers_to_remove": ["x-secret"],
        "response_headers_to_add": {"x-checked": "yes"},
        "query_parameters_to_set": {"tenant": "a"},
        "dynamic_metadata": {"role": roles[http.headers["x-user"]]},
    }
}

roles := {"alice": "guest", "bob": "admin"}

permissions := {
    "guest": [{"method": "GET", "path": "/people/*"}],
    "admin": [{"method": "GET", "path": "/people/*"}, {"method": "POST", "path": "/people"}],
}
"""
ENDLESS = """package envoy.authz

allow if {
    input.parsed_path[0] == "people"
    some i in numbers.range(1, 100000)
    some j in numbers.range(1, 100000)
    i * j == -1
}
"""
FILTERS = "type.googleapis.com/envoy.extensions.filters"


def bootstrap(authz_port, upstream_port, *, pack=False):
    check = {
        "@type": f"{FILTERS}.http.ext_authz.v3.ExtAuthz",
        "transport_api_version": "V3",
        "failure_mode_allow": True,
        "with_request_body": {"max_request_bytes": 8192, "allow_partial_message": True, "pack_as_bytes": pack},
        "grpc_service": {"envoy_grpc": {"cluster_name": "authz"}, "timeout": "30s"},
    }
    routes = {
        "virtual_hosts": [
            {
                "name": "all",
                "domains": ["*"],
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}],
                "typed_per_filter_config": {
                    "envoy.filters.http.ext_authz": {
                        "@type": f"{FILTERS}.http.ext_authz.v3.ExtAuthzPerRoute",
                        "check_settings": {"context_extensions": {"meshward.namespace": "shop"}},
                    }
                },
            }
        ]
    }
    manager = {
        "@type": f"{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": routes,
        "http_filters": [
            {"name": "envoy.filters.http.ext_authz", "typed_config": check},
            {"name": "router", "typed_config": {"@type": f"{FILTERS}.http.router.v3.Router"}},
        ],
    }
    listener = {
        "name": "in",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    http2 = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    clusters = [
        cluster("authz", authz_port, typed_extension_protocol_options=http2),
        cluster("upstream", upstream_port),
    ]
    return {"static_resources": {"listeners": [listener], "clusters": clusters}}


@asynccontextmanager
async def asking(directory, rego, seconds=20.0, messages=None):
    (directory / "policy.rego").write_text(rego)
    source = PathSource(directory / "policy.rego")
    options = RegoOptions(source, "envoy/authz/allow", seconds, 1, messages=messages)
    provider = RegoProvider("opa", options, SystemClock())
    await provider.refresh()
    upstream = await asyncio.start_server(echo, "127.0.0.1", 0)
    custom = policy("{action: CUSTOM, provider: {name: opa}, rules: [{}]}")
    try:
        async with served_authz(custom, providers={"opa": provider}) as served:
            made = bootstrap(served.port, upstream.sockets[0].getsockname()[1], pack=messages is not None)
            async with EnvoyProcess.started(made, directory) as envoy:
                port = await envoy.port_of("in")
                async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                    yield client
    finally:
        upstream.close()
        await provider.close()


async def test_requests_are_decided_and_changed_as_the_policy_says(tmp_path):
    async with asking(tmp_path, REGO) as client:
        allowed = await client.get("/people/alice?a=1", headers={"x-user": "alice", "x-secret": "s"})
        assert (allowed.status_code, allowed.headers["x-checked"]) == (200, "yes")
        seen = allowed.json()
        assert seen["target"] in {"/people/alice?a=1&tenant=a", "/people/alice?tenant=a&a=1"}
        assert seen["headers"]["x-role"] == "guest"
        assert "x-secret" not in seen["headers"]

        denied = await client.post("/people", headers={"x-user": "alice"})
        assert (denied.status_code, denied.text, denied.headers["x-denied-by"]) == (401, "no such permission", "rego")

        for admin, status in ((False, 200), (True, 401)):
            posted = await client.post("/people", headers={"x-user": "bob"}, json={"admin": admin})
            assert posted.status_code == status


@pytest.mark.parametrize("rego", [ENDLESS, "package envoy.authz\nallow := 1", "package envoy.authz\nallow if input.no"])
async def test_what_is_not_decided_is_denied_though_envoy_fails_open(tmp_path, rego):
    async with asking(tmp_path, rego, seconds=1.0) as client:
        denied = await client.get("/people/alice")
        assert denied.status_code == 403
        assert "policy shop/p" in denied.text


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("{", "the body is not JSON"),
        ("[" * 4000, "the body is not JSON"),
        ('{"a": NaN}', "the body is not JSON"),
        ('{"admin": true, "admin": false}', "the body has a name twice"),
        ('{"a": [{"b": 1, "c": 2, "b": 1}]}', "the body has a name twice"),
    ],
)
async def test_a_body_that_is_not_what_it_says_is_denied(tmp_path, body, problem):
    async with asking(tmp_path, REGO) as client:
        headers = {"x-user": "bob", "content-type": "application/json"}
        denied = await client.post("/people", headers=headers, content=body)
        assert denied.status_code == 403
        assert problem in denied.text


BODIES = """package envoy.authz

default allow := false

allow if input.parsed_body == {"cartId": "c1", "count": "7", "parts": [{}]}

allow if input.parsed_body == {"role": ["user"], "file": ["x"]}

allow if {
    input.truncated_body
    input.parsed_body == null
}
"""


async def test_messages_of_grpc_and_forms_in_parts_are_read(tmp_path):
    (tmp_path / "services.pb").write_bytes(descriptor_set())
    async with asking(tmp_path, BODIES, messages=GrpcMessages(tmp_path / "services.pb")) as client:

        async def status(content, *, path="/shop.v1.Carts/Add", kind="application/grpc", **headers):
            found = await client.post(path, content=content, headers={"content-type": kind, **headers})
            # A denial of a call is a status of gRPC in a header.
            return found.headers.get("grpc-status", found.status_code)

        assert await status(frame(ITEM)) == 200
        assert await status(frame(gzip.compress(ITEM), 1), **{"grpc-encoding": "gzip"}) == 200
        for content in (frame(b""), frame(ITEM) * 2, frame(b"garbage"), b""):
            assert await status(content) == "7"
        assert await status(frame(ITEM), path="/shop.v1.Carts/Watch") == "7"
        assert await status(b"\0\0\0\x7f\xff" + b"x" * 10_000) == 200
        posted = await client.post("/", data={"role": "user"}, files={"file": (None, "x")})
        assert posted.status_code == 200
        posted = await client.post("/", data={"role": ["admin", "user"]}, files={"file": (None, "x")})
        assert posted.status_code == 403
