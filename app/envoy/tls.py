"""The TLS parts of a sidecar's bootstrap: every certificate comes over SDS, none from a file."""

from typing import Any

from app.spiffe.id import SpiffeId, TrustDomain

Document = dict[str, Any]

_TLS = "envoy.extensions.transport_sockets.tls.v3"


def any_of(message: str, value: Document) -> Document:
    """Return `value` as a typed Any of the protobuf message named `message`."""
    return {"@type": f"type.googleapis.com/{message}", **value}


def server_tls(trust_domain: TrustDomain, sds_cluster: str) -> Document:
    """Return the server's side: only a client with an SVID of `trust_domain` gets through the handshake."""
    common = _common(sds_cluster, {"san_type": "URI", "matcher": {"prefix": f"{trust_domain.id}/"}}, ("h2", "http/1.1"))
    context = {"require_client_certificate": True, "common_tls_context": common}
    return _socket("DownstreamTlsContext", context)


def peer_tls(peer: SpiffeId, sds_cluster: str) -> Document:
    """Return the client's side towards another sidecar, which must prove to be `peer`."""
    common = _common(sds_cluster, {"san_type": "URI", "matcher": {"exact": str(peer)}}, ("h2",))
    return _socket("UpstreamTlsContext", {"common_tls_context": common})


def sidecar_to_control_plane_tls(name: str, sds_cluster: str) -> Document:
    """Return the client's side towards the control plane, whose certificate must carry the DNS name `name`."""
    common = _common(sds_cluster, {"san_type": "DNS", "matcher": {"exact": name}}, ("h2",))
    return _socket("UpstreamTlsContext", {"sni": name, "common_tls_context": common})


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
            # Zero waits for ever: a listener without its certificate would answer with nothing.
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
