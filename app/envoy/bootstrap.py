"""Envoy's bootstrap for a sidecar: values in, a document out (Envoy API v3, as of Envoy 1.40).

The listeners are static; every certificate comes over SDS from the agent, decisions from the control plane.
Authorization fails closed: a check that gets no answer denies.
"""

import json
from collections.abc import Mapping
from typing import Any

from app.core.net import Address, UnixSocket
from app.envoy.ambiguous import AMBIGUOUS_AUTHORITY, AMBIGUOUS_METHOD, AMBIGUOUS_PATH, OVERRIDES
from app.envoy.sidecar import ControlPlane, Inbound, Outbound, Protocol, Sidecar
from app.spiffe.id import SpiffeId

SDS_CLUSTER = "sds"
CONTROL_PLANE_CLUSTER = "meshward"
# How long a connection may take to open; Envoy requires a value.
CONNECT_TIMEOUT = "1s"
# Envoy's own defaults (200 ms and 20 ms) are tight for a laptop that also runs the load.
CHECK_TIMEOUT = "1s"
QUOTA_TIMEOUT = "0.5s"
# Where HTTP checks are answered; the request's own path follows.
HTTP_CHECK_PREFIX = "/ext_authz"
# Connections that a sidecar takes at once, so that a flood of them does not take the memory of this machine.
MAX_CONNECTIONS = 10_000
# Calls to the control plane that Envoy may retry at the same time: all that it may have open (1,024 by default). When a
# connection is drained its calls are refused together. Envoy's own limit is 3.
MAX_CONCURRENT_RETRIES = 1024

# A control plane that replaces its certificate, or stops, refuses the calls that it has not started: they are repeated
# at once, because the next server is running already. Envoy's own pause is a second, which is all that a check has. It
# takes `max_interval` for the time that each try may take as well; the pauses are a few times the base.
QUOTA_RETRIES = {
    "retry_on": "connect-failure,refused-stream",
    "num_retries": 3,
    "retry_back_off": {"base_interval": "0.005s", "max_interval": QUOTA_TIMEOUT},
}
# A check is idempotent, so it is also repeated where the connection broke under it. A hit may be counted only once.
CHECK_RETRIES = QUOTA_RETRIES | {
    "retry_on": "connect-failure,refused-stream,reset",
    "retry_back_off": {"base_interval": "0.005s", "max_interval": CHECK_TIMEOUT},
}

# In an HTTP check: which of the client's headers it has, and the connection's addresses, as Envoy's formatters write
# them.
HTTP_CHECK_HEADERS = {
    "x-meshward-forwarded-headers": "*, !connection, !upgrade",
    "x-meshward-content-type": "%FILTER_STATE(meshward.content-type:PLAIN)%",
    "x-meshward-destination-ip": "%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%",
    "x-meshward-destination-port": "%DOWNSTREAM_LOCAL_PORT%",
    "x-meshward-sni": "%REQUESTED_SERVER_NAME%",
    "x-meshward-source-ip": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%",
}
# The client's headers that an HTTP check has: all but those above, which Envoy adds after it dropped a client's, and
# those that it would act upon in the check itself (an upgrade; retries and timeouts). A check with the content-type of
# gRPC that fails in Envoy is answered with 200 and a status in a header, which would let the request pass.
FORWARDED_HEADERS = {"patterns": [{"safe_regex": {"regex": ".*"}}]}
WITHHELD_HEADERS = {
    "patterns": [
        *({"prefix": prefix} for prefix in ("x-meshward-", "x-envoy-")),
        *({"exact": name} for name in ("connection", "upgrade", "content-type")),
    ]
}
# What inbound requests are counted by: the verified peer, so that a header with another name escapes no limit, and the
# path without its query, so that adding one does not either.
LIMIT_DESCRIPTOR = {"principal": "connection.uri_san_peer_certificate", "path": "request.url_path"}

Document = dict[str, Any]

_EXTENSIONS = "envoy.extensions"
_HTTP_OPTIONS = f"{_EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions"


def bootstrap(sidecar: Sidecar) -> Document:
    """Return the bootstrap document of `sidecar`; `json.dumps` of it is a file that `envoy -c` takes."""
    namespace, account = sidecar.spiffe_id.workload or ("default", "default")
    return {
        "node": {
            "id": f"sidecar~{account}.{namespace}",
            "cluster": f"{account}.{namespace}",
            "metadata": {"labels": dict(sidecar.labels)},
        },
        # It has no authentication: who reaches it reads every secret, and can stop the sidecar.
        **({"admin": {"address": _address(sidecar.admin)}} if sidecar.admin is not None else {}),
        "overload_manager": {
            "resource_monitors": [
                _extension(
                    "envoy.resource_monitors.global_downstream_max_connections",
                    "resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    max_active_downstream_connections=MAX_CONNECTIONS,
                )
            ]
        },
        "static_resources": {
            "listeners": [
                *(_inbound_listener(sidecar, inbound) for inbound in sidecar.inbound),
                *(_outbound_listener(outbound) for outbound in sidecar.outbound),
            ],
            "clusters": [
                _cluster(SDS_CLUSTER, UnixSocket(sidecar.sds_socket), typed_extension_protocol_options=_http2()),
                _control_plane_cluster(sidecar.control_plane, sidecar.spiffe_id.trust_domain.server_id),
                *(_cluster(f"{inbound.name}-workload", inbound.workload) for inbound in sidecar.inbound),
                *(
                    _cluster(
                        f"{outbound.name}-peer",
                        outbound.peer,
                        typed_extension_protocol_options=_http2(outbound.connection_seconds),
                        transport_socket=_peer_tls(outbound.peer_id),
                    )
                    for outbound in sidecar.outbound
                ),
            ],
        },
    }


def bootstrap_json(sidecar: Sidecar) -> str:
    """Return `bootstrap` as indented JSON text."""
    return json.dumps(bootstrap(sidecar), indent=2)


def _any(message: str, fields: Document) -> Document:
    return {"@type": f"type.googleapis.com/{message}", **fields}


def _extension(name: str, message: str, **fields: Any) -> Document:
    return {"name": name, "typed_config": _any(f"{_EXTENSIONS}.{message}", fields)}


def _address(address: Address) -> Document:
    return {"socket_address": {"address": address.host, "port_value": address.port}}


def _inbound_listener(sidecar: Sidecar, inbound: Inbound) -> Document:
    limit = [
        {
            "extension": _extension(
                "envoy.rate_limit_descriptors.expr",
                "rate_limit_descriptors.expr.v3.Descriptor",
                descriptor_key=key,
                text=expression,
            )
        }
        for key, expression in LIMIT_DESCRIPTOR.items()
    ]
    # The handshake succeeds only with an SVID of the trust domain.
    any_workload = {"prefix": f"{sidecar.spiffe_id.trust_domain.id}/"}
    tls = _tls("DownstreamTlsContext", any_workload, "h2", "http/1.1", require_client_certificate=True)
    return _listener(
        inbound.name,
        inbound.listen,
        {"cluster": f"{inbound.name}-workload", "rate_limits": [{"actions": limit}]},
        (
            *((_kept_content_type(),) if inbound.check is Protocol.HTTP else ()),
            _authorization(inbound.check, sidecar.labels),
            _quota(sidecar.quota_domain),
        ),
        {"transport_socket": tls},
        refused=(
            _path_match(AMBIGUOUS_PATH),
            _header_match(":authority", AMBIGUOUS_AUTHORITY),
            _header_match(":method", AMBIGUOUS_METHOD),
        ),
        removed=OVERRIDES,
        # Servers that have headers as variables (CGI, WSGI) take `x_role` for `x-role`, and some take `script_name` for
        # a part of the path.
        common_http_protocol_options={"headers_with_underscores_action": "REJECT_REQUEST"},
        # Servers take `//` for `/`, and the escape of a slash for one.
        merge_slashes=True,
        path_with_escaped_slashes_action="UNESCAPE_AND_FORWARD",
        # The peer's address is the last entry of x-forwarded-for, so that those before it count as hops.
        use_remote_address=True,
        # The header x-forwarded-client-cert is written from the verified peer, never taken from the client.
        forward_client_cert_details="SANITIZE_SET",
        set_current_client_cert_details={"uri": True},
    )


def _outbound_listener(outbound: Outbound) -> Document:
    route = {"cluster": f"{outbound.name}-peer"}
    return _listener(outbound.name, outbound.listen, route, (), {}, forward_client_cert_details="SANITIZE")


def _listener(
    name: str,
    listen: Address,
    route: Document,
    filters: tuple[Document, ...],
    chain: Document,
    *,
    refused: tuple[Document, ...] = (),
    removed: tuple[str, ...] = (),
    **manager: Any,
) -> Document:
    """Return a listener that speaks HTTP, runs `filters` and sends every request to `route`.

    Requests that match one of `refused` get 400, the others lose the headers `removed`.
    """
    routes: list[Document] = [{"match": match, "direct_response": {"status": 400}} for match in refused]
    routes.append({"match": {"prefix": "/"}, "route": route})
    http = _extension(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=name,
        normalize_path=True,
        http_filters=[*filters, _extension("envoy.filters.http.router", "filters.http.router.v3.Router")],
        route_config={
            "name": name,
            "virtual_hosts": [{"name": name, "domains": ["*"], "routes": routes}],
            **({"request_headers_to_remove": list(removed)} if removed else {}),
        },
        **manager,
    )
    return {
        "name": name,
        "address": _address(listen),
        # With port reuse a second Envoy would share the port instead of reporting that it is taken.
        "enable_reuse_port": False,
        "filter_chains": [{**chain, "filters": [http]}],
    }


def _path_match(expression: str) -> Document:
    return {"safe_regex": {"regex": expression}}


def _header_match(name: str, expression: str) -> Document:
    return {"prefix": "/", "headers": [{"name": name, "string_match": {"safe_regex": {"regex": expression}}}]}


def _authorization(protocol: Protocol, labels: Mapping[str, str]) -> Document:
    """Return the external authorization filter, which fails closed.

    An HTTP check carries the workload's labels, and the addresses, in headers that replace the client's; a gRPC check
    takes the labels from the bootstrap's own metadata.
    """
    call = _grpc_check() if protocol is Protocol.GRPC else _http_check(labels)
    return _extension(
        "envoy.filters.http.ext_authz",
        "filters.http.ext_authz.v3.ExtAuthz",
        transport_api_version="V3",
        failure_mode_allow=False,
        **call,
    )


def _grpc_check() -> Document:
    return {
        "grpc_service": {
            "envoy_grpc": {"cluster_name": CONTROL_PLANE_CLUSTER},
            "timeout": CHECK_TIMEOUT,
            "retry_policy": CHECK_RETRIES,
        },
        "include_peer_certificate": True,
        "include_tls_session": True,
        "encode_raw_headers": True,
        "bootstrap_metadata_labels_key": "labels",
    }


def _http_check(labels: Mapping[str, str]) -> Document:
    listed = ",".join(f"{key}={value}" for key, value in labels.items())
    headers = HTTP_CHECK_HEADERS | ({"x-meshward-labels": listed} if labels else {})
    client_headers = {"patterns": [{"prefix": "x-meshward-"}, {"exact": "content-type"}]}
    return {
        "http_service": {
            "server_uri": {
                "uri": f"https://{CONTROL_PLANE_CLUSTER}",
                "cluster": CONTROL_PLANE_CLUSTER,
                "timeout": CHECK_TIMEOUT,
            },
            "path_prefix": HTTP_CHECK_PREFIX,
            "retry_policy": CHECK_RETRIES,
            "authorization_request": {"headers_to_add": [{"key": key, "value": headers[key]} for key in headers]},
            "authorization_response": {"allowed_client_headers": client_headers},
        },
        "encode_raw_headers": True,
        "allowed_headers": FORWARDED_HEADERS,
        "disallowed_headers": WITHHELD_HEADERS,
    }


def _kept_content_type() -> Document:
    """Return the filter that keeps the content-type of a request for the HTTP check, which may not have it itself."""
    return _extension(
        "envoy.filters.http.set_filter_state",
        "filters.http.set_filter_state.v3.Config",
        on_request_headers=[
            {
                "object_key": "meshward.content-type",
                "factory_key": "envoy.string",
                "format_string": {
                    "text_format_source": {"inline_string": "%REQ(content-type)%"},
                    "omit_empty_values": True,
                },
                "skip_if_empty": True,
            }
        ],
    )


def _quota(domain: str) -> Document:
    """Return the rate limit filter, which fails open."""
    return _extension(
        "envoy.filters.http.ratelimit",
        "filters.http.ratelimit.v3.RateLimit",
        domain=domain,
        timeout=QUOTA_TIMEOUT,
        failure_mode_deny=False,
        rate_limit_service={
            "transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": CONTROL_PLANE_CLUSTER}, "retry_policy": QUOTA_RETRIES},
        },
    )


def _control_plane_cluster(control_plane: ControlPlane, expected: SpiffeId) -> Document:
    """Return the cluster of the control plane, with TLS towards `expected` unless it is a Unix socket."""
    tls = isinstance(control_plane.address, Address)
    return _cluster(
        CONTROL_PLANE_CLUSTER,
        control_plane.address,
        typed_extension_protocol_options=_http2(control_plane.connection_seconds),
        circuit_breakers={"thresholds": [{"max_retries": MAX_CONCURRENT_RETRIES}]},
        **({"transport_socket": _peer_tls(expected, sni=control_plane.name)} if tls else {}),
    )


def _cluster(name: str, at: Address | UnixSocket, **fields: Any) -> Document:
    """Return the cluster of one endpoint."""
    by_name = isinstance(at, Address) and at.is_name
    endpoint = _address(at) if isinstance(at, Address) else {"pipe": {"path": at.path}}
    return {
        "name": name,
        # Envoy prefers IPv6 where a name has both, and the control plane listens on IPv4 by default.
        **({"type": "STRICT_DNS", "dns_lookup_family": "V4_PREFERRED"} if by_name else {"type": "STATIC"}),
        "connect_timeout": CONNECT_TIMEOUT,
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": endpoint}}]}],
        },
        **fields,
    }


def _http2(connection_seconds: float | None = None) -> Document:
    options: Document = {"explicit_http_config": {"http2_protocol_options": {}}}
    if connection_seconds is not None:
        options["common_http_protocol_options"] = {"max_connection_duration": f"{connection_seconds}s"}
    return {_HTTP_OPTIONS: _any(_HTTP_OPTIONS, options)}


def _peer_tls(peer: SpiffeId, **fields: str) -> Document:
    """Return the client's side of TLS towards a server that must prove to be `peer`."""
    return _tls("UpstreamTlsContext", {"exact": str(peer)}, "h2", **fields)


def _tls(context: str, peer: Document, *alpn: str, **fields: Any) -> Document:
    """Return TLS with the workload's SVID towards peers whose SPIFFE ID matches `peer`."""
    common = {
        "alpn_protocols": list(alpn),
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "tls_certificate_sds_secret_configs": [_secret("default")],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": [{"san_type": "URI", "matcher": peer}]},
            "validation_context_sds_secret_config": _secret("ROOTCA"),
        },
    }
    message = f"transport_sockets.tls.v3.{context}"
    return _extension("envoy.transport_sockets.tls", message, common_tls_context=common, **fields)


def _secret(name: str) -> Document:
    return {
        "name": name,
        "sds_config": {
            "resource_api_version": "V3",
            # Zero waits for ever: a listener without its certificate could not complete a handshake.
            "initial_fetch_timeout": "0s",
            "api_config_source": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [{"envoy_grpc": {"cluster_name": SDS_CLUSTER}}],
            },
        },
    }
