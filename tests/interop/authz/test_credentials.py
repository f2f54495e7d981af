"""API keys and access tokens through a real Envoy, over gRPC and HTTP: what is answered, and what the workload gets."""

import httpx
import pytest

from app.authz.rules.api_keys import ApiKeySpec
from app.authz.service.introspection import Introspection
from app.core.clock import SystemClock
from tests.assets.request_authentications import credential_authentication
from tests.fakes.authz import policy
from tests.fakes.introspection import FakeEndpoint
from tests.fakes.principals import OPERATOR
from tests.fakes.served_authz import served_authz
from tests.support.envoy_process import EnvoyProcess, cluster
from tests.support.workload import workload

EXT = "envoy.extensions"
ISSUER = "https://idp.example.org"
KEYS = {
    "apiKey": {},
    "fromHeaders": [{"name": "x-api-key"}],
    "fromParams": ["api_key"],
    "fromCookies": ["key"],
}
TOKENS = {"oauth2Introspection": {"authorizationServer": "idp"}}
ANYBODY = policy("{rules: [{from: [{source: {requestPrincipals: ['*']}}]}]}")
EXTENSIONS = {"check_settings": {"context_extensions": {"meshward.namespace": "shop"}}}


def typed(name, **fields):
    return {"@type": f"type.googleapis.com/{EXT}.{name}", **fields}


CHECKS = {
    "grpc": {"grpc_service": {"envoy_grpc": {"cluster_name": "authz"}, "timeout": "30s"}, "encode_raw_headers": True},
    "http": {
        "http_service": {
            "server_uri": {"uri": "http://authz", "cluster": "authz", "timeout": "30s"},
            "path_prefix": "/ext_authz",
            "authorization_request": {
                "headers_to_add": [
                    {"key": "x-meshward-namespace", "value": "shop"},
                    {"key": "x-meshward-forwarded-headers", "value": "authorization,x-api-key,cookie"},
                ]
            },
            "authorization_response": {"allowed_client_headers": {"patterns": [{"exact": "www-authenticate"}]}},
        },
        "allowed_headers": {"patterns": [{"exact": "x-api-key"}, {"exact": "cookie"}]},
    },
}


def listener(name, check):
    routes = {
        "virtual_hosts": [
            {
                "name": "all",
                "domains": ["*"],
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}],
                "typed_per_filter_config": {"authz": typed("filters.http.ext_authz.v3.ExtAuthzPerRoute", **EXTENSIONS)},
            }
        ]
    }
    filters = [
        ("authz", "ext_authz.v3.ExtAuthz", {"transport_api_version": "V3"} | check),
        ("router", "router.v3.Router", {}),
    ]
    manager = typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=name,
        route_config=routes,
        http_filters=[
            {"name": each, "typed_config": typed(f"filters.http.{kind}", **fields)} for each, kind, fields in filters
        ],
    )
    return {
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def bootstrap(authz_port, upstream_port):
    http2 = typed("upstreams.http.v3.HttpProtocolOptions", explicit_http_config={"http2_protocol_options": {}})
    options = {f"{EXT}.upstreams.http.v3.HttpProtocolOptions": http2}
    return {
        "node": {"id": "test", "cluster": "test"},
        "static_resources": {
            "listeners": [listener(name, check) for name, check in CHECKS.items()],
            "clusters": [
                cluster("authz", authz_port, typed_extension_protocol_options=options),
                cluster("upstream", upstream_port),
            ],
        },
    }


@pytest.fixture
async def mesh(tmp_path):
    """Sends a request, over one kind of check, and has the service and a key of it."""
    clock = SystemClock()
    endpoint = FakeEndpoint(opaque={"sub": "alice", "iss": ISSUER})
    servers = {"idp": Introspection(endpoint, ISSUER, 60.0, clock)}
    documents = credential_authentication(KEYS, TOKENS) + ANYBODY
    async with (
        workload() as upstream,
        served_authz(documents, clock=clock, servers=servers) as served,
        EnvoyProcess.started(bootstrap(served.port, upstream), tmp_path) as envoy,
        httpx.AsyncClient() as client,
    ):
        created = await served.service.api_keys.create(OPERATOR, ApiKeySpec("partner-a"), None)

        async def send(check, target="/", **headers):
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return await client.get(f"http://127.0.0.1:{await envoy.port_of(check)}{target}", headers=named)

        yield send, served.service, created


def reached(response):
    """The target and the headers that the workload got."""
    assert response.status_code == 200, response.text
    target, headers = response.json()
    return target, {name: value for name, _, value in headers}


async def test_a_key_passes_in_each_place_and_the_workload_does_not_get_it(mesh):
    send, _, created = mesh
    key = created.text
    for check in CHECKS:
        _, headers = reached(await send(check, x_api_key=key, x_other="1"))
        assert "x-api-key" not in headers
        assert headers["x-other"] == "1"
        target, _ = reached(await send(check, f"/a?b=1&api_key={key}&c=2"))
        _, cookies = reached(await send(check, cookie=f"a=b; key={key}; c=d"))
        if check == "grpc":
            assert target == "GET /a?b=1&c=2 HTTP/1.1"
            assert cookies["cookie"] == "a=b; c=d"
            _, alone = reached(await send(check, cookie=f"key={key}"))
            assert "cookie" not in alone
        _, tokens = reached(await send(check, authorization="Bearer opaque"))
        assert "authorization" not in tokens


async def test_a_bad_credential_is_answered_with_401_and_none_with_403(mesh):
    send, service, created = mesh
    for check in CHECKS:
        assert (await send(check)).status_code == 403
        for bad in ({"x_api_key": "mwk_" + "A" * 43}, {"authorization": "Bearer other"}, {"cookie": "key=x"}):
            answer = await send(check, **bad)
            assert (answer.status_code, answer.text) == (401, "The credential is not valid")
            assert answer.headers["www-authenticate"].startswith(("ApiKey realm=", "Bearer realm="))
        beside = await send(check, x_api_key=created.text, authorization="Bearer other")
        assert beside.status_code == 401
        assert (await send(check, x_api_key=created.text, authorization="Basic eDp5")).status_code == 200
        doubled = await send(check, x_api_key=f"{created.text},{created.text}")
        assert doubled.status_code == 401
    await service.api_keys.revoke(OPERATOR, created.key.id)
    for check in CHECKS:
        assert (await send(check, x_api_key=created.text)).status_code == 401
