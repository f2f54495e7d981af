"""CheckRequests of requests, with all that a proxy may leave out, join or add: no Envoy is asked."""

import random
from base64 import b64decode
from urllib.parse import quote

from envoy.service.auth.v3 import external_auth_pb2
from google.protobuf import struct_pb2

from tests.support.differential import mesh, policies
from tests.support.differential.traffic import CLAIMS_HEADER, FOUND_HEADER, Request

SOURCES = (
    *("127.0.0.1", "127.0.0.2", "127.0.0.9", "::1", "::ffff:127.0.0.1", "203.0.113.7", "2001:db8::1", "", "@"),
    "fe80::1%eth0",
)
DESTINATIONS = ("127.0.0.1", "127.0.0.2", "::1", "::ffff:127.0.0.1", "")
PORTS = (policies.MTLS, policies.PLAIN, policies.AS_SENT, policies.TCP, 443, 0)
SERVER_NAMES = ("", "shop.example.org", "SHOP.example.org", "x.example.org", "shop.example.org.", "X.ORG", ".")
# Targets and methods that Envoy refuses or changes where it is configured to.
TARGETS = (
    *(
        "/admin/..;/a",
        "/a;x/b",
        "/;/admin",
        "/a%2f%2e%2e%2fadmin",
        "/a/.;/b",
        "/.%2e/admin",
        "/a%3bx",
        "/a/%2e",
        "/%2e%2e;/a",
    ),
    *(
        "/a/b%2fc",
        "/a%25",
        "/x/%5c../admin",
        "/a//b//",
        "/admin/.",
        "/admin/..",
        "",
        "/a/{*}",
        "/A%2a",
        "/a/x%2Fb",
        "/a/é",
    ),
)
METHODS = ("", "CONNECT", "get", "G T")
FORWARDED = ("x-role", "*", "x-*, !x-other", "*, !x-role", "cookie", "*, !x-http-method-override")
DECLARED = (",".join(mesh.FILTERS), policies.TOKENS_FILTER, policies.FOUND_FILTER)
_END = "-----END CERTIFICATE-----\n"
_METADATA = {CLAIMS_HEADER: (policies.TOKENS_FILTER, "payload"), FOUND_HEADER: (policies.FOUND_FILTER, "k")}


def random_check(rng: random.Random, request: Request, certificates: mesh.Certificates):
    """Return the check of a request, or of a connection if it has no method."""
    check = external_auth_pb2.CheckRequest()
    attributes = check.attributes
    for peer, addresses in ((attributes.source, SOURCES), (attributes.destination, DESTINATIONS)):
        peer.address.socket_address.address = rng.choice(addresses)
        peer.address.socket_address.port_value = rng.choice(PORTS)
    _add_peer(rng, attributes.source, certificates)
    if rng.random() < 0.7:
        attributes.tls_session.sni = rng.choice(SERVER_NAMES)
    if rng.random() < 0.9:
        attributes.destination.principal = mesh.SERVER
    if request.method:
        _add_request(rng, attributes, request)
    return check


def _add_peer(rng, peer, certificates):
    name = rng.choice([*mesh.NAMES, "", ""])
    if not name:
        return
    names, sent = mesh.NAMES[name], rng.random()
    if sent < 0.7:
        peer.principal = next(iter((*names["uris"], *names.get("dns", ()))), "")
    if sent > 0.3:
        leaf = certificates.peers[name][1].partition(_END)
        peer.certificate = quote(leaf[0] + leaf[1])


def _add_request(rng, attributes, request):
    http, extensions = attributes.request.http, attributes.context_extensions
    http.method = rng.choice(METHODS) if rng.random() < 0.1 else request.method
    http.path = rng.choice(TARGETS) if rng.random() < 0.3 else request.target
    http.host, http.scheme = request.host, rng.choice(["http", "https", ""])
    headers = [(name.lower(), value) for name, value in request.headers if name not in _METADATA]
    if rng.random() < 0.6:
        for name, value in headers:
            http.header_map.headers.add(key=name, raw_value=value)
    else:
        for name, value in headers:
            text = value.decode("utf-8", "replace").replace("\ufffd", "!")
            http.headers[name] = f"{http.headers[name]},{text}" if name in http.headers else text
    if rng.random() < 0.3:
        extensions["meshward.forwarded_headers"] = rng.choice(FORWARDED)
    if rng.random() < 0.8:
        extensions["meshward.metadata"] = rng.choice(DECLARED)
    for name, value in request.headers:
        if name in _METADATA:
            namespace, key = _METADATA[name]
            found = struct_pb2.Value.FromString(b64decode(value))
            attributes.metadata_context.filter_metadata[namespace].fields[key].CopyFrom(found)
