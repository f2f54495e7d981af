"""An Envoy that runs RBAC filters in shadow mode before it asks: the two judge the same request."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID

from tests.assets.certificates import MeshCa, key_pem, new_key, pem
from tests.support.differential import policies
from tests.support.differential.traffic import CLAIMS_HEADER, FOUND_HEADER

EXT = "type.googleapis.com/envoy.extensions"
HTTP_RBAC, TCP_RBAC = "envoy.filters.http.rbac", "envoy.filters.network.rbac"
# The RBAC filters of a workload, each with a prefix of its own in dynamic metadata.
PLACES = ("LOG", "DENY", "ALLOW")
INSPECTOR = "filters.listener.tls_inspector.v3.TlsInspector"
# Proxies in front of each listener whose entries in x-forwarded-for are believed.
TRUSTED_HOPS = {"mtls": 0, "plain": 1, "as_sent": 2}
SET_HEADER, SET_EXTENSION = "x-set", "set"

FRONT, CART = "spiffe://cluster.local/ns/web/sa/front", "spiffe://cluster.local/ns/shop/sa/cart"
SERVER = "spiffe://cluster.local/ns/shop/sa/api"
# What each certificate names its holder by.
NAMES: dict[str, dict[str, Any]] = {
    "web": {"uris": (FRONT,)},
    "old": {"uris": ("spiffe://old.example.org/ns/web/sa/front",)},
    "other": {"uris": ("spiffe://other.example.org/ns/shop/sa/cart",)},
    "deep": {"uris": ("spiffe://cluster.local/c/1/ns/web/n/sa/front/2",)},
    "named": {"uris": (FRONT,), "dns": ("cart.web", "*.svc.web"), "subject": (("CN", "front"), ("O", "Shop, Inc."))},
    "two": {"uris": (FRONT, CART)},
    "dns": {"uris": (), "dns": ("front.web.svc", "spiffe://cluster.local/ns/web/sa/front")},
    "subject": {"uris": (), "subject": (("O", "web"), ("OU", "caf\u00e9"), ("CN", "front"))},
    "url": {"uris": ("https://cluster.local/ns/web/sa/front",)},
    "bare": {"uris": ("spiffe://cluster.local",)},
    "slash": {"uris": ("spiffe://cluster.local/ns/web/sa/front/",)},
    "upper": {"uris": ("spiffe://cluster.local/ns/Web/sa/Front",)},
    "odd": {"uris": ("spiffe://cluster.local/ns/web//sa/front", "spiffe:///ns/web/sa/front")},
}
_ATTRIBUTES = {"CN": NameOID.COMMON_NAME, "O": NameOID.ORGANIZATION_NAME, "OU": NameOID.ORGANIZATIONAL_UNIT_NAME}


class Certificates:
    """An authority, and the key and chain of each kind of peer and of the server, as PEM."""

    def __init__(self):
        self._ca = MeshCa(domain="cluster.local")
        self.roots = self._ca.roots
        self.server = self._issue(uris=(SERVER,))
        self.peers = {name: self._issue(**names) for name, names in NAMES.items()}

    def _issue(self, uris=(), dns=(), subject=()):
        key = new_key()
        name = x509.Name([x509.NameAttribute(_ATTRIBUTES[kind], text) for kind, text in subject])
        changed = {} if uris or dns else {"names": None}
        leaf = self._ca.leaf(
            key.public_key(), datetime.now(UTC), timedelta(hours=1), uris=uris, dns=dns, subject=name, **changed
        )
        return key_pem(key).decode(), pem(leaf) + self._ca.signer.pem


def _metadata_rule(header, namespace, key):
    found = {"metadata_namespace": namespace, "key": key, "type": "PROTOBUF_VALUE", "encode": "BASE64"}
    return {"header": header, "on_header_present": found, "remove": True}


FILTERS = (policies.TOKENS_FILTER, policies.FOUND_FILTER)
_METADATA_RULES = [
    _metadata_rule(CLAIMS_HEADER, policies.TOKENS_FILTER, "payload"),
    _metadata_rule(FOUND_HEADER, policies.FOUND_FILTER, "k"),
]


def shadow(filters, ports):
    """The rules of a workload's filters, by action, about the ports that listeners have."""
    text = json.dumps(filters)
    for token, port in ports.items():
        text = text.replace(f'"destinationPort": {token}', f'"destinationPort": {port}')
    configs = [each.get("typedConfig", {}) for each in json.loads(text)]
    # What has no rules has a dry run alone, which decides nothing.
    return {(rules := each["rules"]).get("action", "ALLOW"): rules for each in configs if "rules" in each}


def bootstrap(http_sets, tcp_sets, service_port, ports, certificates):
    """The configuration: filters of sets by their numbers; `ports` by listener, and of each TCP set by its number."""
    listeners = [_http_listener(name, http_sets, ports, certificates) for name in ("mtls", "plain", "as_sent")]
    listeners += [_tcp_listener(number, filters, ports[number], certificates) for number, filters in tcp_sets.items()]
    options = _any("upstreams.http.v3.HttpProtocolOptions", explicit_http_config={"http2_protocol_options": {}})
    meshward = {
        "name": "meshward",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [{"max_requests": 100_000, "max_pending_requests": 100_000}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
        "load_assignment": {
            "cluster_name": "meshward",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _at(service_port)}}]}],
        },
    }
    return {
        "node": {"id": "test", "cluster": "test"},
        "static_resources": {"listeners": listeners, "clusters": [meshward]},
    }


def _any(message, **fields):
    return {"@type": f"{EXT}.{message}", **fields}


def _at(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _http_listener(name, sets, ports, certificates):
    tokens = {policies.MTLS: ports["mtls"], policies.PLAIN: ports["plain"], policies.AS_SENT: ports["as_sent"]}
    manager = _any(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=name,
        normalize_path=name != "as_sent",
        merge_slashes=name == "mtls",
        use_remote_address=name != "plain",
        xff_num_trusted_hops=TRUSTED_HOPS[name],
        route_config={
            "name": name,
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [_route(number, shadow(filters, tokens)) for number, filters in sets.items()],
                }
            ],
        },
        http_filters=[
            _filter("found", "filters.http.header_to_metadata.v3.Config", request_rules=_METADATA_RULES),
            *(_filter(place, "filters.http.rbac.v3.RBAC", shadow_rules_stat_prefix=f"{place}_") for place in PLACES),
            _filter("ext_authz", "filters.http.ext_authz.v3.ExtAuthz", encode_raw_headers=True, **_check(HTTP_RBAC)),
            _filter("router", "filters.http.router.v3.Router"),
        ],
    )
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    mtls = name == "mtls"
    if mtls:
        chain["transport_socket"] = _tls(certificates)
    return {
        "name": name,
        "address": _at(ports[name]),
        # Without it the RBAC filter knows no server name. Istio has it in every listener.
        "listener_filters": [_filter("tls", INSPECTOR)] if mtls else [],
        "filter_chains": [chain],
    }


def _route(number, rules):
    per_route = {
        place: _any("filters.http.rbac.v3.RBACPerRoute", rbac=_shadow_of(place, rules.get(place))) for place in PLACES
    }
    per_route["ext_authz"] = _any(
        "filters.http.ext_authz.v3.ExtAuthzPerRoute",
        check_settings={"context_extensions": {SET_EXTENSION: str(number), "meshward.metadata": ",".join(FILTERS)}},
    )
    is_set = {"name": SET_HEADER, "string_match": {"exact": str(number)}}
    return {
        "match": {"prefix": "", "headers": [is_set]},
        "direct_response": {"status": 200},
        "typed_per_filter_config": per_route,
    }


def _shadow_of(place, rules):
    found = {"shadow_rules_stat_prefix": f"{place}_"}
    if rules is None:
        return found
    return found | {"shadow_rules": rules | ({"action": "DENY"} if place == "LOG" else {})}


def _tcp_listener(number, filters, port, certificates):
    rules = shadow(filters, {policies.TCP: port})
    chain: list[dict[str, Any]] = [
        *(
            _filter(place, "filters.network.rbac.v3.RBAC", stat_prefix=f"{place}.", **_shadow_of(place, rules[place]))
            for place in PLACES
            if place in rules
        ),
        _filter("check", "filters.network.ext_authz.v3.ExtAuthz", stat_prefix="c", **_check(TCP_RBAC, number)),
        _filter("echo", "filters.network.echo.v3.Echo"),
    ]
    return {
        "name": f"tcp-{number}",
        "address": _at(port),
        "listener_filters": [_filter("tls", INSPECTOR)],
        "filter_chains": [
            {
                "filter_chain_match": {"transport_protocol": "tls"},
                "transport_socket": _tls(certificates),
                "filters": chain,
            },
            {"filter_chain_match": {"transport_protocol": "raw_buffer"}, "filters": chain},
        ],
    }


def _filter(name, message, **fields):
    return {"name": name, "typed_config": _any(message, **fields)}


def _check(namespace, number=None):
    service: dict[str, Any] = {"envoy_grpc": {"cluster_name": "meshward"}, "timeout": "60s"}
    if number is not None:
        service["initial_metadata"] = [{"key": SET_HEADER, "value": str(number)}]
    return {
        "transport_api_version": "V3",
        "failure_mode_allow": False,
        "grpc_service": service,
        "include_peer_certificate": True,
        "include_tls_session": True,
        "metadata_context_namespaces": [namespace, *FILTERS],
    }


def _tls(certificates):
    key, chain = certificates.server
    common = {
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_certificates": [{"private_key": {"inline_string": key}, "certificate_chain": {"inline_string": chain}}],
        "validation_context": {"trusted_ca": {"inline_string": certificates.roots}},
    }
    return _filter("tls", "transport_sockets.tls.v3.DownstreamTlsContext", common_tls_context=common)
