"""Bootstraps of an Envoy that has its certificates over SDS, and what its listener shows to a client."""

import asyncio
import ssl
import tempfile

from cryptography import x509

from tests.assets.certificates import key_pem, pem

FILTERS = "type.googleapis.com/envoy.extensions.filters"


def secret(name, api_type, token=None):
    """An SdsSecretConfig that asks the cluster `sds`, with a join token if there is one."""
    service: dict[str, object] = {"envoy_grpc": {"cluster_name": "sds"}}
    if token is not None:
        service["initial_metadata"] = [{"key": "authorization", "value": f"Bearer {token}"}]
    source = {
        "resource_api_version": "V3",
        "api_config_source": {
            "api_type": api_type,
            "transport_api_version": "V3",
            "grpc_services": [service],
            "set_node_on_first_message_only": True,
        },
    }
    return {"name": name, "sds_config": source}


def bootstrap(socket, api_type="GRPC", svid="default", roots="ROOTCA"):
    """An Envoy that asks the agent's socket."""
    return sidecar({"pipe": {"path": str(socket)}}, secret(svid, api_type), secret(roots, api_type))


def sidecar(source, svid, roots, **cluster):
    """An Envoy whose listener `mtls` answers 200 to clients that show a certificate of the mesh.

    Its secrets come from the address `source`.
    """
    tls = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_certificate_sds_secret_configs": [svid],
            "validation_context_sds_secret_config": roots,
        },
    }
    manager = {
        "@type": f"{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "mtls",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{FILTERS}.http.router.v3.Router"},
            }
        ],
    }
    listener = {
        "name": "mtls",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [
            {
                "transport_socket": {"name": "tls", "typed_config": tls},
                "filters": [{"name": "http", "typed_config": manager}],
            }
        ],
    }
    http2 = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    sds = {
        "name": "sds",
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": http2,
        "load_assignment": {
            "cluster_name": "sds",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": source}}]}],
        },
        **cluster,
    }
    return {
        "node": {"id": "sidecar-1", "cluster": "shop"},
        "static_resources": {"listeners": [listener], "clusters": [sds]},
    }


def client_tls(roots, key=None, chain=()):
    """A client that trusts `roots` and shows `chain`; SPIFFE certificates are for no host name."""
    shown = key_pem(key) + "".join(map(pem, chain)).encode() if key is not None else b""
    return client_tls_of(roots, shown)


def client_tls_of(roots, shown):
    """The same of a client that shows a PEM file: its key and its chain."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=roots)
    if shown:
        with tempfile.NamedTemporaryFile() as file:
            file.write(shown)
            file.flush()
            context.load_cert_chain(file.name)
    return context


async def ask(port, context):
    """The status line that the listener answers with, and the leaf that it shows."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        leaf = x509.load_der_x509_certificate(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
        writer.write(b"GET / HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n")
        await writer.drain()
        return await reader.readline(), leaf
    finally:
        writer.close()
