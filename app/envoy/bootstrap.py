"""Envoy's bootstrap for a sidecar: values in, a document out (Envoy API v3, as of Envoy 1.40).

The listeners are static; certificates come over SDS from the agent, decisions from the control plane. Authorization
fails closed: a check that gets no answer denies.
"""

import json
from typing import Any

from app.core.net import Address
from app.envoy.extensions import (
    Document,
    any_of,
    authorization,
    connection_manager,
    peer_tls,
    quota,
    server_tls,
)
from app.envoy.sidecar import Inbound, Outbound, Sidecar

SDS_CLUSTER = "sds"
CONTROL_PLANE_CLUSTER = "meshward"
# How long a connection may take to open; Envoy requires a value.
CONNECT_TIMEOUT = "1s"
# Connections that a sidecar takes at once, so that a flood of them does not take the memory of this machine.
MAX_CONNECTIONS = 10_000
# Calls to the control plane that Envoy may retry at the same time: all that it may have open (1,024 by default). When a
# connection is drained its calls are refused together. Envoy's own limit is 3.
MAX_CONCURRENT_RETRIES = 1024


def bootstrap(sidecar: Sidecar) -> Document:
    """Return the bootstrap document of `sidecar`; `json.dumps` of it is a file that `envoy -c` takes."""
    return {
        "node": _node(sidecar),
        "admin": {"address": _address(sidecar.admin)},
        "overload_manager": _overload_manager(),
        "static_resources": {
            "listeners": [
                *(_inbound_listener(sidecar, inbound) for inbound in sidecar.inbound),
                *(_outbound_listener(outbound) for outbound in sidecar.outbound),
            ],
            "clusters": [
                _sds_cluster(sidecar),
                _control_plane_cluster(sidecar),
                *(_workload_cluster(inbound) for inbound in sidecar.inbound),
                *(_peer_cluster(outbound) for outbound in sidecar.outbound),
            ],
        },
    }


def bootstrap_json(sidecar: Sidecar) -> str:
    """Return `bootstrap` as indented JSON text."""
    return json.dumps(bootstrap(sidecar), indent=2)


def _node(sidecar: Sidecar) -> Document:
    namespace, account = sidecar.spiffe_id.workload or ("default", "default")
    return {
        "id": f"sidecar~{account}.{namespace}",
        "cluster": f"{account}.{namespace}",
        "metadata": {"labels": dict(sidecar.labels)},
    }


def _overload_manager() -> Document:
    name = "envoy.resource_monitors.global_downstream_max_connections"
    message = "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
    value = any_of(message, {"max_active_downstream_connections": MAX_CONNECTIONS})
    return {"resource_monitors": [{"name": name, "typed_config": value}]}


def _address(address: Address) -> Document:
    return {"socket_address": {"address": address.host, "port_value": address.port}}


def _listener(name: str, listen: Address, chain: Document) -> Document:
    return {
        "name": name,
        "address": _address(listen),
        # With port reuse a second Envoy would share the port instead of reporting that it is taken.
        "enable_reuse_port": False,
        "filter_chains": [chain],
    }


def _inbound_listener(sidecar: Sidecar, inbound: Inbound) -> Document:
    manager = connection_manager(
        inbound.name,
        cluster=f"{inbound.name}-workload",
        filters=(
            authorization(inbound.check, CONTROL_PLANE_CLUSTER, sidecar.labels),
            quota(sidecar.quota_domain, CONTROL_PLANE_CLUSTER),
        ),
        client_certificate=True,
    )
    tls = server_tls(sidecar.spiffe_id.trust_domain, SDS_CLUSTER)
    return _listener(inbound.name, inbound.listen, {"transport_socket": tls, "filters": [manager]})


def _outbound_listener(outbound: Outbound) -> Document:
    manager = connection_manager(outbound.name, cluster=f"{outbound.name}-peer", filters=(), client_certificate=False)
    return _listener(outbound.name, outbound.listen, {"filters": [manager]})


def _cluster(name: str, endpoint: Document, *, name_to_look_up: bool = False, **extra: Any) -> Document:
    # Envoy prefers IPv6 where a name has both, and the control plane listens on IPv4 by default.
    look_up = {"type": "STRICT_DNS", "dns_lookup_family": "V4_PREFERRED"} if name_to_look_up else {"type": "STATIC"}
    return {
        "name": name,
        **look_up,
        "connect_timeout": CONNECT_TIMEOUT,
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": endpoint}}]}],
        },
        **extra,
    }


def _http2(connection_seconds: float | None = None) -> Document:
    options: Document = {"explicit_http_config": {"http2_protocol_options": {}}}
    if connection_seconds is not None:
        options["common_http_protocol_options"] = {"max_connection_duration": f"{connection_seconds}s"}
    return {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": any_of(
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions", options
        )
    }


def _sds_cluster(sidecar: Sidecar) -> Document:
    return _cluster(SDS_CLUSTER, {"pipe": {"path": sidecar.sds_socket}}, typed_extension_protocol_options=_http2())


def _control_plane_cluster(sidecar: Sidecar) -> Document:
    return _cluster(
        CONTROL_PLANE_CLUSTER,
        _address(sidecar.control_plane.address),
        name_to_look_up=sidecar.control_plane.address.is_name,
        typed_extension_protocol_options=_http2(sidecar.control_plane.connection_seconds),
        circuit_breakers={"thresholds": [{"max_retries": MAX_CONCURRENT_RETRIES}]},
        transport_socket=peer_tls(
            sidecar.spiffe_id.trust_domain.server_id, SDS_CLUSTER, sni=sidecar.control_plane.name
        ),
    )


def _workload_cluster(inbound: Inbound) -> Document:
    at = inbound.workload
    return _cluster(f"{inbound.name}-workload", _address(at), name_to_look_up=at.is_name)


def _peer_cluster(outbound: Outbound) -> Document:
    return _cluster(
        f"{outbound.name}-peer",
        _address(outbound.peer),
        name_to_look_up=outbound.peer.is_name,
        typed_extension_protocol_options=_http2(outbound.connection_seconds),
        transport_socket=peer_tls(outbound.peer_id, SDS_CLUSTER),
    )
