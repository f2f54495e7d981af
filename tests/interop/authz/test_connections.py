"""A real Envoy whose network filter asks about TCP connections, and fails open."""

import asyncio

import pytest

from app.authz.model import AuthzOptions, UnknownWorkload
from tests.fakes.authz import policy
from tests.fakes.served_authz import served_authz
from tests.support.envoy_process import EnvoyProcess

EXT = "envoy.extensions"


def typed(name, **fields):
    return {"@type": f"type.googleapis.com/{name}", **fields}


def bootstrap(port):
    """A listener that sends back what it is sent, once the service lets the connection pass."""
    options = typed(f"{EXT}.upstreams.http.v3.HttpProtocolOptions", explicit_http_config={"http2_protocol_options": {}})
    at = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    check = typed(
        f"{EXT}.filters.network.ext_authz.v3.ExtAuthz",
        stat_prefix="check",
        failure_mode_allow=True,
        transport_api_version="V3",
        grpc_service={"envoy_grpc": {"cluster_name": "meshward"}, "timeout": "10s"},
    )
    filters = [
        {"name": "check", "typed_config": check},
        {"name": "echo", "typed_config": typed(f"{EXT}.filters.network.echo.v3.Echo")},
    ]
    listener_at = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    return {
        "node": {"id": "test", "cluster": "test"},
        "static_resources": {
            "listeners": [{"name": "tcp", "address": listener_at, "filter_chains": [{"filters": filters}]}],
            "clusters": [
                {
                    "name": "meshward",
                    "connect_timeout": "5s",
                    "typed_extension_protocol_options": {f"{EXT}.upstreams.http.v3.HttpProtocolOptions": options},
                    "load_assignment": {
                        "cluster_name": "meshward",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": at}}]}],
                    },
                }
            ],
        },
    }


async def passes(port) -> bool:
    """Whether a connection is answered; one that is denied is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"hello")
    async with asyncio.timeout(20):
        answer = await reader.read(5)
    writer.close()
    return answer == b"hello"


@pytest.fixture
async def listener(tmp_path):
    # Without TLS the proxy does not tell the destination's identity, and this filter has no way to name it.
    options = AuthzOptions(unknown_workload=UnknownWorkload.ROOT)
    async with (
        served_authz(options=options) as served,
        EnvoyProcess.started(bootstrap(served.port), tmp_path) as envoy,
    ):
        yield served, await envoy.port_of("tcp")


async def test_connections_are_matched_by_address_and_port_and_what_only_http_has_widens_a_denial(listener):
    served, port = listener
    rules = {
        "{rules: [{from: [{source: {ipBlocks: [127.0.0.1]}}]}]}": True,
        "{rules: [{from: [{source: {remoteIpBlocks: [10.0.0.0/8]}}]}]}": False,
        f"{{rules: [{{to: [{{operation: {{ports: ['{port}']}}}}]}}]}}": True,
        "{rules: [{to: [{operation: {notMethods: [GET]}}]}]}": False,
        "{action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}": False,
        "{action: DENY, rules: [{to: [{operation: {paths: [/admin], ports: ['1']}}]}]}": True,
        "{action: AUDIT, rules: [{}]}": True,
    }
    for spec, expected in rules.items():
        await served.apply(policy(spec, namespace="istio-system"))
        assert await passes(port) is expected, spec
    assert served.metrics.observations.value("audit", "matched") == 1
