"""Requests and connections at random: peers of every kind, and every odd spelling of what policies are about."""

import random
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf import struct_pb2
from google.protobuf.json_format import ParseDict

from tests.support.differential import policies as vocabulary


@dataclass(frozen=True)
class Peer:
    """How a client connects: to which listener, showing which certificate, asking for which server name."""

    listener: str
    certificate: str = ""
    server_name: str = ""
    address: str = "127.0.0.1"
    http2: bool = False


@dataclass(frozen=True)
class Request:
    """One request, as it is written to the wire; or a connection, if there is no method."""

    peer: Peer
    method: str = ""
    target: str = ""
    host: str = ""
    headers: tuple[tuple[str, bytes], ...] = ()


# Envoy makes metadata of these, in the place of filters that verify tokens or look at requests, and removes them.
CLAIMS_HEADER, FOUND_HEADER = "x-claims", "x-found"

SVID, NO_CERTIFICATE = "web", ""
CERTIFICATES = ("web", "old", "other", "deep", "named", "two", "dns", "subject", "url", "bare", "slash", "upper", "odd")
SERVER_NAMES = ("", "shop.example.org", "SHOP.example.org", "x.example.org")
ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")

PEERS = (
    *(Peer("mtls", certificate, "shop.example.org") for certificate in (NO_CERTIFICATE, *CERTIFICATES)),
    *(Peer("mtls", SVID, name) for name in SERVER_NAMES),
    Peer("mtls", NO_CERTIFICATE),
    Peer("mtls", SVID, "shop.example.org", "127.0.0.2"),
    Peer("mtls", SVID, "shop.example.org", http2=True),
    Peer("mtls", NO_CERTIFICATE, "SHOP.example.org", http2=True),
    *(Peer(listener, address=address) for listener in ("plain", "as_sent") for address in ADDRESSES),
    Peer("plain", http2=True),
    Peer("as_sent", http2=True),
)
CONNECTING = (
    *(Peer("tcp", certificate, "shop.example.org") for certificate in (NO_CERTIFICATE, *CERTIFICATES)),
    *(Peer("tcp", SVID, name) for name in SERVER_NAMES),
)
TCP_PLAIN = tuple(Peer("tcp", "plaintext", address=address) for address in ADDRESSES)

METHODS = ("GET", "GET", "POST", "DELETE", "OPTIONS", "HEAD", "PUT", "PATCH", "M-SEARCH")
HTTP2_METHODS = (*METHODS, "get", "FOO", "G")
HOSTS = (
    *("shop.example.org", "SHOP.example.org", "shop.example.org:8080", "shop.example.org.", "shop.example.org.:8080"),
    *(
        "x",
        "x:443",
        "[::1]",
        "[::1]:8080",
        "127.0.0.1",
        "",
        "shop.example.org:",
        "shop.example.orgx",
        "Shop.Example.Org:8080",
    ),
    *("user@shop.example.org", "shop_example.org", "a.shop.example.org", "shop.example.org,x"),
)
TARGETS = (
    *("/", "/admin", "/admin/", "/admin?x=y", "/admin?x=/a", "/a/b", "/a/x/c/y/z", "/a", "/A", "//admin", "/admin//"),
    *("/./admin", "/a/../admin", "/a/%2e%2e/admin", "/%61dmin", "/admin%2fx", "/admin%2Fx", "/admin%5cx", "/admin\\x"),
    *("/admin;x=y", "/a/..;/admin", "/%2561dmin", "/caf%c3%a9", "/caf%C3%A9", "/a|b", "/a*b", "/a//b", "/x.js", "/.js"),
    *("/admin%00", "/admin%zz", "/admin%", "/admin.", "/admin%3fx", "/admin%23x", "/a%2fb", "/a/{x}", '/a/"x"', "//"),
    *("/%c0%afadmin", "/admin,/x", "/a/b/c", "/a/", "/a/b/", "/%", "/?", "/?admin", "/admin?", "*", "/a/x%20y", "/a/^"),
)
RAW_TARGETS = ("/admin#x", "/hello#/admin", "/caf\xc3\xa9", "/\xff", "http://shop.example.org/admin", "/admin\x01")
ROLES = (
    *(b"admin", b"user", b"", b"admin,user", b"admin, user", b"user,admin", b"Admin", b" admin ", b"administrator"),
    *(b"\xc3\xa9", b"\xff", b"adm\xffin", b"admin\xff", b"superadmin", b"admin;user", b"\tadmin"),
)
_OTHERS: dict[str, tuple[bytes, ...]] = {
    "x-other": (b"1", b"2", b"11", b""),
    "cookie": (b"a=1", b"a=1; b=2", b"b=2"),
    "content-type": (b"application/grpc", b"application/json", b""),
    "x-http-method-override": (b"DELETE", b"GET"),
    "x-forwarded-for": (
        *(b"203.0.113.7", b"203.0.113.7, 127.0.0.9", b"127.0.0.9,203.0.113.7", b"unknown", b"2001:db8::1", b""),
        *(
            b"203.0.113.7:80",
            b"[2001:db8::1]:80",
            b" 203.0.113.7 ",
            b"203.0.113.7,",
            b"::ffff:203.0.113.7",
            b"0203.0.113.7",
        ),
    ),
    "x-forwarded-proto": (b"http", b"https", b"HTTPS", b"ftp", b""),
    "x-envoy-original-path": (b"/admin",),
    "x-original-url": (b"/admin",),
}


TEXTS = ("shop", "api", "Shop", "", "shop api", "shop,api", "other", "ashop", "shopa", "true")
ISSUERS = ("https://issuer.example.org", "https://issuer.example.org", "other", "other/team", "", "https://other")
SUBJECTS = ("alice", "alice", "bob", "", "team/bob", "malice")


def metadata_header(value: Any) -> bytes:
    """Return the value as a header that Envoy makes metadata of."""
    found = struct_pb2.Value()
    ParseDict(value, found)
    return b64encode(found.SerializeToString())


def _value(rng: random.Random) -> Any:
    """A claim: mostly a text or a list of some."""
    kind = rng.random()
    if kind < 0.5:
        return rng.choice(TEXTS)
    if kind < 0.8:
        return [rng.choice((*TEXTS, 3, True)) for _ in range(rng.randint(0, 3))]
    return rng.choice([3, True, None, {"shop": "shop"}, [["shop"]], [{"shop": "shop"}]])


def _claims(rng: random.Random) -> Any:
    if rng.random() < 0.05:
        return rng.choice(["shop", ["shop"], 3, None])
    found: dict[str, Any] = {}
    for name, values in (("iss", ISSUERS), ("sub", SUBJECTS)):
        if rng.random() < 0.9:
            found[name] = rng.choice(values) if rng.random() < 0.9 else _value(rng)
    for name in rng.sample(["aud", "azp", "scope", "level", "a.b"], rng.randint(0, 4)):
        found[name] = _value(rng)
    if rng.random() < 0.5:
        realm = {name: _value(rng) for name in rng.sample(["roles", "name"], rng.randint(0, 2))}
        found["realm"] = realm if rng.random() < 0.9 else _value(rng)
    return found


def _found_by_filters(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    if rng.random() < 0.6:
        yield CLAIMS_HEADER, metadata_header(_claims(rng))
    if rng.random() < 0.5:
        yield FOUND_HEADER, metadata_header(_value(rng))


def random_requests(number: int, seed: int) -> list[Request]:
    """Return so many requests over HTTP."""
    rng = random.Random(seed)
    return [_request(rng) for _ in range(number)]


def random_connections(number: int, seed: int) -> list[Request]:
    """Return so many connections."""
    rng = random.Random(seed)
    return [Request(rng.choice((*CONNECTING, *TCP_PLAIN))) for _ in range(number)]


def _request(rng: random.Random) -> Request:
    peer = rng.choice(PEERS)
    targets = (*TARGETS, *vocabulary_paths()) if peer.http2 else (*TARGETS, *vocabulary_paths(), *RAW_TARGETS)
    headers = [(rng.choice(["x-role", "X-Role"]), rng.choice(ROLES)) for _ in range(rng.choice([0, 1, 1, 2]))]
    for name in rng.sample(list(_OTHERS), rng.choice([0, 0, 1, 2])):
        headers += [(name, rng.choice(_OTHERS[name])) for _ in range(rng.choice([1, 1, 1, 2]))]
    headers += _found_by_filters(rng)
    return Request(
        peer,
        rng.choice(HTTP2_METHODS if peer.http2 else METHODS),
        rng.choice(targets),
        rng.choice(HOSTS),
        tuple(headers),
    )


def vocabulary_paths() -> list[str]:
    """Return paths of the kinds that policies name."""
    plain = (path.replace("{**}", "x/y").replace("{*}", "x") for path in vocabulary.PATHS)
    return [path.replace("*", "x") for path in plain if path.startswith("/") and "#" not in path]
