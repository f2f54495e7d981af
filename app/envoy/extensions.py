"""Envoy's extensions in a sidecar's bootstrap: HTTP filters with their time limits, and TLS.

Every certificate comes over SDS, none from a file.
"""

from collections.abc import Mapping
from typing import Any

from app.envoy.sidecar import Protocol
from app.spiffe.id import SpiffeId, TrustDomain

# Envoy's own defaults (200 ms and 20 ms) are tight for a laptop that also runs the load.
CHECK_TIMEOUT = "1s"
QUOTA_TIMEOUT = "0.5s"
# Where HTTP checks are answered; the request's own path follows.
HTTP_CHECK_PREFIX = "/ext_authz"

# A control plane that replaces its certificate, or stops, refuses the calls that it has not started: they are repeated
# at once, because the next server is running already. Envoy's own pause is a second, which is all that a check has.
QUOTA_RETRIES = {
    "retry_on": "connect-failure,refused-stream",
    "num_retries": 3,
    "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.050s"},
}
# A check is idempotent, so it is also repeated where the connection broke under it. A hit may be counted only once.
CHECK_RETRIES = QUOTA_RETRIES | {"retry_on": "connect-failure,refused-stream,reset"}

# The connection's addresses in an HTTP check, as Envoy's formatters write them.
HTTP_CHECK_HEADERS = {
    "x-meshward-destination-ip": "%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%",
    "x-meshward-destination-port": "%DOWNSTREAM_LOCAL_PORT%",
    "x-meshward-sni": "%REQUESTED_SERVER_NAME%",
    "x-meshward-source-ip": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%",
}

Document = dict[str, Any]

_HTTP = "envoy.extensions.filters.http"
_TLS = "envoy.extensions.transport_sockets.tls.v3"
_MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_EXPRESSION = "envoy.extensions.rate_limit_descriptors.expr.v3.Descriptor"


def any_of(message: str, value: Document) -> Document:
    """Return `value` as a typed Any of the protobuf message named `message`."""
    return {"@type": f"type.googleapis.com/{message}", **value}


def connection_manager(name: str, *, cluster: str, filters: tuple[Document, ...], client_certificate: bool) -> Document:
    """Return the network filter that speaks HTTP, runs `filters` and sends everything to `cluster`.

    With `client_certificate` the header `x-forwarded-client-cert` is written from the verified peer; without it, and
    from the client in either case, the header is removed.
    """
    router: Document = {"name": "envoy.filters.http.router", "typed_config": any_of(f"{_HTTP}.router.v3.Router", {})}
    value: Document = {
        "stat_prefix": name,
        "normalize_path": True,
        "forward_client_cert_details": "SANITIZE_SET" if client_certificate else "SANITIZE",
        "http_filters": [*filters, router],
        "route_config": {
            "name": name,
            "virtual_hosts": [{"name": name, "domains": ["*"], "routes": [_route(cluster, limited=bool(filters))]}],
        },
    }
    if client_certificate:
        value["set_current_client_cert_details"] = {"uri": True}
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": any_of(_MANAGER, value)}


def authorization(protocol: Protocol, cluster: str, labels: Mapping[str, str]) -> Document:
    """Return the external authorization filter, which sends its checks to `cluster` and fails closed.

    `labels` are the workload's. An HTTP check carries them, and the addresses, in headers that replace the client's; a
    gRPC check takes them from the bootstrap's own metadata.
    """
    common: Document = {"transport_api_version": "V3", "failure_mode_allow": False}
    call = _grpc_check(cluster) if protocol is Protocol.GRPC else _http_check(cluster, labels)
    value = any_of(f"{_HTTP}.ext_authz.v3.ExtAuthz", common | call)
    return {"name": "envoy.filters.http.ext_authz", "typed_config": value}


def quota(domain: str, cluster: str) -> Document:
    """Return the rate limit filter, which counts in `domain` at `cluster` and fails open."""
    value = {
        "domain": domain,
        "timeout": QUOTA_TIMEOUT,
        "failure_mode_deny": False,
        "rate_limit_service": {
            "transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": cluster}, "retry_policy": QUOTA_RETRIES},
        },
    }
    return {"name": "envoy.filters.http.ratelimit", "typed_config": any_of(f"{_HTTP}.ratelimit.v3.RateLimit", value)}


def server_tls(trust_domain: TrustDomain, sds_cluster: str) -> Document:
    """Return the server's side, whose handshake succeeds only with an SVID of `trust_domain`."""
    common = _common(sds_cluster, {"san_type": "URI", "matcher": {"prefix": f"{trust_domain.id}/"}}, ("h2", "http/1.1"))
    context = {"require_client_certificate": True, "common_tls_context": common}
    return _socket("DownstreamTlsContext", context)


def peer_tls(peer: SpiffeId, sds_cluster: str, **more: str) -> Document:
    """Return the client's side towards a server that must prove to be `peer`; `more` are fields of its context."""
    common = _common(sds_cluster, {"san_type": "URI", "matcher": {"exact": str(peer)}}, ("h2",))
    return _socket("UpstreamTlsContext", {**more, "common_tls_context": common})


def _grpc_check(cluster: str) -> Document:
    return {
        "grpc_service": {
            "envoy_grpc": {"cluster_name": cluster},
            "timeout": CHECK_TIMEOUT,
            "retry_policy": CHECK_RETRIES,
        },
        "include_peer_certificate": True,
        "include_tls_session": True,
        "encode_raw_headers": True,
        "bootstrap_metadata_labels_key": "labels",
    }


def _http_check(cluster: str, labels: Mapping[str, str]) -> Document:
    server = {"uri": f"https://{cluster}", "cluster": cluster, "timeout": CHECK_TIMEOUT}
    headers = HTTP_CHECK_HEADERS | ({"x-meshward-labels": _listed(labels)} if labels else {})
    client_headers = {"patterns": [{"prefix": "x-meshward-"}, {"exact": "content-type"}]}
    return {
        "http_service": {
            "server_uri": server,
            "path_prefix": HTTP_CHECK_PREFIX,
            "retry_policy": CHECK_RETRIES,
            "authorization_request": {"headers_to_add": [{"key": key, "value": headers[key]} for key in headers]},
            "authorization_response": {"allowed_client_headers": client_headers},
        },
        "allowed_headers": {"patterns": [{"exact": "x-forwarded-client-cert"}]},
    }


def _listed(labels: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in labels.items())


def _route(cluster: str, *, limited: bool) -> Document:
    action: Document = {"cluster": cluster}
    if limited:
        # The verified peer, so that a limit cannot be escaped by writing another name into a header; and the path
        # without its query, so that it cannot be escaped by adding one.
        keys = (("principal", "connection.uri_san_peer_certificate"), ("path", "request.url_path"))
        action["rate_limits"] = [{"actions": [_descriptor(key, expression) for key, expression in keys]}]
    return {"match": {"prefix": "/"}, "route": action}


def _descriptor(key: str, expression: str) -> Document:
    value = any_of(_EXPRESSION, {"descriptor_key": key, "text": expression})
    return {"extension": {"name": "envoy.rate_limit_descriptors.expr", "typed_config": value}}


def _common(sds_cluster: str, san: Document, alpn: tuple[str, ...]) -> Document:
    return {
        "alpn_protocols": list(alpn),
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "tls_certificate_sds_secret_configs": [_secret("default", sds_cluster)],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": [san]},
            "validation_context_sds_secret_config": _secret("ROOTCA", sds_cluster),
        },
    }


def _secret(name: str, sds_cluster: str) -> Document:
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
                "grpc_services": [{"envoy_grpc": {"cluster_name": sds_cluster}}],
            },
        },
    }


def _socket(context: str, value: Document) -> Document:
    return {"name": "envoy.transport_sockets.tls", "typed_config": any_of(f"{_TLS}.{context}", value)}
