"""Ways around a policy, as data: requests that must not reach the workload. Add a line to add one.

What protects it is `POLICIES`, written as the guide says for `authz.matching = "istio"`.
"""

import hmac
from dataclasses import dataclass, replace
from typing import Any

from tests.assets.jwts import AUDIENCE, ISSUER, STRANGER, SUBJECT, claims, hostile, jwk, part, spelled, token
from tests.assets.request_authentications import jwt_rule, request_authentication

POLICIES = """
DENY [{to: [{operation: {paths: ['/admin*']}}]}]
DENY [{to: [{operation: {hosts: ['admin.example.org*']}}]}]
DENY [{to: [{operation: {methods: [DELETE]}}]}]
DENY [{to: [{operation: {paths: ['/role']}}], when: [{key: 'request.headers[x-role]', values: [admin]}]}]
DENY [{to: [{operation: {paths: ['/t/{*}/edit']}}]}]
DENY [{from: [{source: {principals: ['*/sa/cart']}}]}]
DENY [{from: [{source: {namespaces: [w.b]}}], to: [{operation: {paths: [/dotted]}}]}]
ALLOW [{to: [{operation: {paths: ['/public/*', /hello, /role, '/t/*', '/x/*', /dotted, '/', '/pkg.Svc/*']}}]}]
ALLOW [{to: [{operation: {paths: ['/exact']}}]}]
ALLOW [{to: [{operation: {paths: ['/needs']}}], when: [{key: 'request.headers[x-role]', values: [user]}]}]
ALLOW [{to: [{operation: {paths: ['/inside']}}], from: [{source: {remoteIpBlocks: [10.0.0.0/8]}}]}]
ALLOW [{to: [{operation: {paths: ['/known']}}], from: [{source: {notPrincipals: [cluster.local/ns/web/sa/front]}}]}]
ALLOW [{to: [{operation: {paths: [/js]}}], when: [{key: 'request.headers[content-type]', values: [application/json]}]}]
DENY [{to: [{operation: {paths: ['/none']}}], when: [{key: 'request.headers[content-type]', values: ['*']}]}]
ALLOW [{to: [{operation: {paths: ['/none']}}]}]
ALLOW [{to: [{operation: {paths: ['/any']}}], when: [{key: 'request.headers[content-type]', notValues: [text/xml]}]}]
"""


@dataclass(frozen=True)
class Way:
    """A request, byte for byte but for the line ends. `peer` is the client's certificate, see `PEERS` of
    `protected_workload`.

    Over HTTP/2 the pseudo-headers are made of the fields, `:authority` only if there is a host; more of them, and what
    does not belong there, may stand among the headers.
    """

    name: str
    target: str = "/public/x"
    headers: tuple[str, ...] = ()
    method: str = "GET"
    host: str = "shop.example.org"
    peer: str = "web"
    body: str = ""
    http2: bool = False
    trailers: tuple[str, ...] = ()

    def has(self, name: str) -> bool:
        """Whether the request has a header of that name, in lower case."""
        return any(line.lower().startswith(f"{name}:") for line in self.headers)


def _paths(name: str, *targets: str) -> tuple[Way, ...]:
    return tuple(Way(name, target) for target in targets)


WAYS = (
    *_paths("doubled slashes", "//admin", "///admin", "/.//admin"),
    *_paths("escaped slashes", "/x/..%2fadmin", "/x%2f..%2fadmin", "/%2fadmin", "/public/..%2Fadmin", "/admin%2fx"),
    *_paths("backslashes", "\\admin", "/x\\..\\admin", "/x/..%5cadmin", "/%5cadmin", "/admin%5cx"),
    *_paths("fragments", "/admin#x", "/hello#/../admin", "/exact#/x", "/exactly#", "/public/x#"),
    *_paths("queries", "/admin?x", "/admin?/../hello", "/needs?/exact", "/exactly?", "/admin?x=/hello", "/needs%3f"),
    *_paths("parameters", "/admin;x=y", "/admin;", "/;x/admin", "/public/..;/admin", "/x/..;a=b/admin"),
    *_paths("parameters of dots", "/x/%2e%2e;/admin", "/x/.;/..;/admin", "/..;/admin"),
    *_paths("parameters after an escape", "/x/..%3b/admin", "/x/..%3Bx=y/admin", "/x/%2e%2e%3b/admin", "/%3bx/admin"),
    *_paths("escapes in escapes", "/%2561dmin", "/x/%252e%252e/admin", "/x/%25252e%25252e/admin", "/x/..%252fadmin"),
    *_paths("bytes that are not UTF-8", "/%c0%afadmin", "/x/%c0%ae%c0%ae/admin", "/x/..%c0%afadmin", "/x/%c1%9cadmin"),
    *_paths("a slash in three bytes and more", "/x/..%e0%80%afadmin", "/x/..%E0%80%AFadmin", "/x/..%f0%80%80%afadmin"),
    *_paths("a slash in three bytes and more", "/x/..%f8%80%80%80%afadmin", "/x/..%fc%80%80%80%80%afadmin"),
    *_paths("a dot in three bytes", "/x/%e0%80%ae%e0%80%ae/admin", "/x/..%e0%81%9cadmin"),
    *_paths("dot segments", "/./admin", "/x/../admin", "/../admin", "/x/%2e%2e/admin", "/%2e/admin", "/hello/../admin"),
    *_paths(
        "what follows the name", "/admin/", "/admin.", "/admin/.", "/admin/x/..", "/admin%20", "/exact/", "/exact."
    ),
    *_paths("escaped letters", "/%61dmin", "/%61%64%6d%69%6e", "/ad%6Din"),
    *_paths("control characters", "/admin%00", "/x/%00/admin", "/admin\x01", "/public/%00"),
    *_paths("control characters", "/t/x/edit%0a", "/t/x/edit%0D%0A", "/t/x/edit%09", "/x/..%01/admin", "/hello%7f"),
    *_paths("control characters", "/x/a%0d%0aX-Role:%20admin"),
    *_paths("malformed escapes", "/admin%", "/admin%zz", "/needs%"),
    *_paths("malformed escapes", "/x/..%u002fadmin", "/x/%u002e%u002e/admin", "/x/..%%32%66admin", "/x/%", "/x/%2"),
    *_paths("characters that a template does not have", "/t/[x]/edit", "/t/x]/edit", '/t/"x"/edit', "/t/a|b/edit"),
    *_paths(
        "absolute form", "http://shop.example.org/admin", "http://other/../admin", "https://shop.example.org//admin"
    ),
    *_paths("a star in a segment of a template", "/t/x*/edit", "/t/*/edit", "/t/{x}/edit", "/t/x//edit"),
    *_paths("no slash", "admin", "*", "x/admin"),
    Way("case of the host", host="ADMIN.example.org"),
    Way("case of the host", host="Admin.Example.Org:80"),
    Way("port of the host", host="admin.example.org:8080"),
    Way("port of the host", host="admin.example.org:"),
    Way("dot of the host", host="admin.example.org."),
    Way("user in the host", host="x@admin.example.org"),
    Way("user in the host", host="admin.example.org@x"),
    Way("host of the absolute form", "http://admin.example.org/public/x"),
    Way("host of the absolute form", "HTTP://x@Admin.example.org:80/public/x"),
    Way("escape in the host", host="admin%2eexample.org"),
    Way("what ends the host", host="admin.example.org/x"),
    Way("what ends the host", host="admin.example.org#x"),
    Way("what ends the host", host="admin.example.org\\x"),
    Way("bytes beyond ASCII", host="admin\xe3\x80\x82example.org"),
    Way("two hosts", host="admin.example.org", headers=("Host: shop.example.org",)),
    Way("two hosts", headers=("Host: admin.example.org",)),
    Way("method", method="DELETE"),
    Way("method in lower case", method="delete"),
    Way("method in lower case", "/admin", method="get"),
    Way("repeated header", "/role", ("x-role: user", "x-role: admin")),
    Way("repeated header", "/role", ("x-role: admin", "x-role: user")),
    Way("repeated header", "/role", ("x-role: admin", "X-ROLE: admin")),
    Way("list in a header", "/needs", ("x-role: user,admin",)),
    Way("list in a header", "/needs", ("x-role: admin, user",)),
    Way("case of a value", "/needs", ("x-role: USER",)),
    Way("underscore in a name", "/role", ("x_role: admin",)),
    Way("underscore in a name", "/role", ("X_Role: admin", "x-role: user")),
    Way("underscore in a name", headers=("X_HTTP_METHOD_OVERRIDE: DELETE",), method="POST"),
    Way("underscore in a name", headers=("x-original_url: /admin",)),
    Way("a part of the path in a header", "/public/x/admin", ("SCRIPT_NAME: /public/x",)),
    Way("bytes beyond ASCII", "/needs", ("x-role: user\xff",)),
    Way("bytes beyond ASCII", "/needs", ("x-role: \xc3\xa9user",)),
    Way("bytes beyond ASCII", "/admin\xff"),
    Way("bytes beyond ASCII", "/\xff/../admin"),
    Way("NUL in a header", "/needs", ("x-role: user\x00",)),
    Way("folded header", "/needs", ("x-role: admin", " user")),
    Way("space before the colon", "/needs", ("x-role : user",)),
    Way("several URI names", peer="two"),
    Way("suffix of a principal", peer="cart"),
    Way("unescaped dot in a namespace", "/dotted", peer="dotted"),
    Way("no certificate", "/hello", peer=""),
    Way("no certificate", "/known", peer=""),
    Way("certificate without a SPIFFE ID", "/hello", peer="dns"),
    Way("certificate without a SPIFFE ID", "/known", peer="subject"),
    Way("certificate of another kind of URI", "/known", peer="url"),
    Way("certificate of another trust domain", "/known", peer="other"),
    Way("NUL in a name of a certificate", "/known", peer="nul"),
    Way("forged path", "/admin", ("x-envoy-original-path: /hello",)),
    Way("forged path", "/admin", ("x-original-url: /hello", "x-rewrite-url: /hello")),
    Way("forged peer", "/known", ("x-forwarded-client-cert: URI=spiffe://cluster.local/ns/other/sa/x",)),
    Way("forged address", "/inside", ("x-forwarded-for: 10.1.2.3",)),
    Way("forged address", "/inside", ("x-forwarded-for: 10.1.2.3, 10.1.2.3, 10.1.2.3", "x-real-ip: 10.1.2.3")),
    Way("forged address", "/inside", ("x-envoy-external-address: 10.1.2.3", "x-envoy-internal: true")),
    Way("forged workload", "/admin", ("x-meshward-namespace: other", "x-meshward-labels: app=other")),
    Way("forged partial body", "/admin", ("x-envoy-auth-partial-body: false",), method="POST", body="x"),
    Way("body longer than what is sent to a check", "/admin", method="POST", body="x" * 100_000),
    Way("upgrade", "/admin", ("Upgrade: websocket", "Connection: upgrade", "Sec-WebSocket-Version: 13")),
    Way("upgrade", "/admin", ("Upgrade: h2c", "Connection: upgrade, http2-settings", "HTTP2-Settings: AAMAAABk")),
    Way("preflight", "/admin", ("Origin: https://x.org", "Access-Control-Request-Method: GET"), method="OPTIONS"),
    Way("gRPC", "/admin", ("content-type: application/grpc", "te: trailers"), method="POST", body="\0\0\0\0\0"),
    Way("gRPC without a slash", "pkg.Svc/Method", ("content-type: application/grpc", "te: trailers"), method="POST"),
    Way(
        "compressed gRPC",
        "/admin",
        ("content-type: application/grpc", "grpc-encoding: gzip"),
        method="POST",
        body="\1\0\0\0\0",
    ),
    *(
        Way("another kind of body", "/js", headers)
        for headers in (
            (),
            ("content-type: text/plain",),
            ("content-type: text/plain", "content-type: application/json"),
            ("x-meshward-content-type: application/json",),
            ("content-type: text/plain", "x-meshward-content-type: application/json"),
        )
    ),
    Way("another kind of body", "/none", ("content-type: text/plain",)),
    Way("another kind of body", "/any", ("content-type: text/xml", "x-meshward-content-type: application/json")),
    Way("timeouts of the client", "/admin", ("x-envoy-upstream-rq-timeout-ms: 1", "x-envoy-expected-rq-timeout-ms: 1")),
    Way("retries of the client", "/admin", ("x-envoy-retry-on: 5xx", "x-envoy-max-retries: 9")),
    Way("a header that the proxy removes", "/needs", ("Connection: x-role", "x-role: admin")),
    Way("a header that the proxy removes", "/needs", ("Connection: x-role", "x-role: user")),
    Way("CONNECT", "shop.example.org:443", method="CONNECT"),
    Way("a length that is none", "/hello", ("Content-Length: +5",), method="POST", body="x=/admin"),
    Way("two lengths", "/hello", ("Content-Length: 1", "Content-Length: 5"), method="POST", body="x=/admin"),
    Way("a length and chunks", "/hello", ("Transfer-Encoding: chunked", "Content-Length: 1"), "POST", body="x=/admin"),
    Way("chunks that are none", "/hello", ("Transfer-Encoding: xchunked",), "POST", body="0\r\n\r\n"),
    Way("chunks that are none", "/hello", ("Transfer-Encoding: chunked, identity",), "POST", body="0\r\n\r\n"),
    Way("chunks that are none", "/hello", ("Transfer-Encoding : chunked",), "POST", body="0\r\n\r\n"),
    Way("chunks that are none", "/hello", ("Transfer-Encoding:\x0bchunked",), "POST", body="0\r\n\r\n"),
)


def _over_2(name: str, *headers: str, target: str = "/public/x", **given: Any) -> Way:
    return Way(name, target, headers, http2=True, **given)


# Headers that HTTP/2 does not have, and the bytes of a body that a client may send before it is asked for more.
_OF_HTTP_1, WINDOW = ("connection", "transfer-encoding"), 65_535
# The same over HTTP/2, and what only it has.
WAYS_2 = (
    *(replace(way, http2=True) for way in WAYS if not any(map(way.has, _OF_HTTP_1)) and len(way.body) < WINDOW),
    _over_2("two paths", ":path: /admin"),
    _over_2("two paths", ":path: /public/x", target="/admin"),
    _over_2("two methods", ":method: DELETE"),
    _over_2("two authorities", ":authority: admin.example.org"),
    _over_2("a pseudo-header after others", "x-other: 1", ":path: /admin"),
    _over_2("another pseudo-header", ":x: 1"),
    _over_2("a pseudo-header of responses", ":status: 200"),
    _over_2("a host without an authority", "host: admin.example.org", host=""),
    _over_2("two hosts without an authority", "host: shop.example.org", "host: admin.example.org", host=""),
    _over_2("upper case", "X-Role: admin", target="/role"),
    _over_2("upper case", ":Path: /admin"),
    _over_2("a line end in a value", "x-other: 1\r\nx-role: user", target="/needs"),
    _over_2("a line end in a value", "x-other: 1\nx-role: user", target="/needs"),
    _over_2("a line end in a value", "x-other: 1\r\n\r\nGET /admin HTTP/1.1\r\nHost: x"),
    _over_2("a line end in a name", "x-other\r\nx-role: user", target="/needs"),
    _over_2("a colon in a name", "x-role:x: user", target="/needs"),
    _over_2("a line end in the path", target="/public/x HTTP/1.1\r\nHost: x\r\n\r\nGET /admin"),
    _over_2("a space in the path", target="/public/x /admin"),
    _over_2("a line end in the authority", host="shop.example.org\r\nx-role: user", target="/needs"),
    _over_2("a method with more", method="GET /admin HTTP/1.1\r\nHost: x\r\n\r\nGET"),
    _over_2("no path", target=""),
    _over_2("absolute form", target="http://admin.example.org/public/x"),
    _over_2("extended CONNECT", ":protocol: websocket", target="/admin", method="CONNECT"),
    _over_2("extended CONNECT", ":protocol: websocket", target="/public/x", method="CONNECT"),
    _over_2("another length", "content-length: 0", method="POST", body="x=/admin"),
    _over_2("headers of a connection", "connection: x-role", "x-role: user", target="/needs"),
    _over_2("headers of a connection", "transfer-encoding: chunked", method="POST", body="0\r\n\r\n"),
    _over_2("headers of a connection", "upgrade: websocket", "connection: upgrade", target="/hello"),
)

# Requests that reach the workload, so that the others are not refused for another reason.
PASSING = (
    Way("plain", "/public/x"),
    Way("plain", "/hello?x=/admin"),
    Way("query", "/hello?filter[a]=b&c=%0a&d=%2541&e=/..;/"),
    Way("exact", "/exact"),
    Way("exact", "/exact?x"),
    Way("value", "/needs", ("x-role: user",)),
    Way("value", "/role", ("x-role: user",)),
    Way("escape", "/public/caf%c3%a9"),
    Way("escape", "/public/a%20b"),
    Way("template", "/t/x/view"),
    Way("method", method="POST", body="x"),
    Way("kind of body", "/js", ("content-type: application/json",)),
    Way("kind of body", "/none"),
    Way("kind of body", "/any", ("content-type: application/grpc", "te: trailers"), method="POST", body="\0\0\0\0\0"),
    Way("peer", "/known", peer="cart2"),
    Way("host", host="x-admin.example.org"),
    Way("host", host="[::1]:8080"),
    Way("host", headers=("host: shop.example.org",), host="", http2=True),
    Way("method", method="POST", body="x", http2=True),
    Way("value", "/needs", ("x-role: user",), http2=True),
    Way("upgrade", "/hello", ("Origin: https://x.org", "Access-Control-Request-Method: GET"), method="OPTIONS"),
)

# Requests that pass, with what a server would take for another method, path, host or request: it must not get that.
OVERRIDES = (
    Way("another method", headers=("x-http-method-override: DELETE",), method="POST"),
    Way("another method", headers=("X-HTTP-Method: DELETE", "x-method-override: DELETE"), method="POST"),
    Way("another path", headers=("x-original-url: /admin", "x-rewrite-url: /admin")),
    Way("another path", headers=("x-envoy-original-path: /admin",)),
    Way("another host", headers=("X-Forwarded-Host: admin.example.org", "x-original-host: admin.example.org")),
    Way("another host", headers=("Forwarded: for=10.1.2.3;host=admin.example.org",)),
    Way("another host", headers=("host: admin.example.org",), http2=True),
    Way("another request", "/hello", ("Content-Length: 0",), "POST", body="GET /admin HTTP/1.1\r\nHost: x\r\n\r\n"),
    Way(
        "another request",
        "/hello",
        ("Transfer-Encoding: chunked",),
        "POST",
        body="0\r\n\r\nGET /admin HTTP/1.1\r\nHost: x\r\n\r\n",
    ),
    Way(
        "trailers",
        "/hello",
        ("Transfer-Encoding: chunked", "Trailer: x-role"),
        "POST",
        body="1\r\nx\r\n0\r\nx-role: admin\r\nx-http-method: DELETE\r\n\r\n",
    ),
    Way("trailers", "/hello", (), "POST", body="x", http2=True, trailers=("x-role: admin", "x-http-method: DELETE")),
)
FORBIDDEN = (
    *("x-http-method-override", "x-http-method", "x-method-override"),
    *("x-original-url", "x-rewrite-url", "x-envoy-original-path", "/admin"),
    *("x-forwarded-host", "x-original-host", "forwarded:", "admin.example.org", "x-role: admin"),
)


# The same for tokens: whose requests these policies let pass has one of `ISSUER`, for `SUBJECT`.
TOKEN_POLICIES = f"""
ALLOW [{{from: [{{source: {{requestPrincipals: ['{ISSUER}/{SUBJECT}']}}}}], to: [{{operation: {{paths: [/token]}}}}]}}]
ALLOW [{{to: [{{operation: {{paths: [/role]}}}}], when: [{{key: 'request.headers[x-role]', values: [admin]}}]}}]
DENY [{{to: [{{operation: {{paths: [/public]}}}}], from: [{{source: {{notRequestPrincipals: ['*']}}}}]}}]
"""
AUTHENTICATION = request_authentication(
    jwt_rule(
        audiences=[AUDIENCE],
        forwardOriginalToken=True,
        fromHeaders=[{"name": "authorization", "prefix": "Bearer "}],
        fromParams=["token"],
        fromCookies=["jwt"],
        outputClaimToHeaders=[{"header": "x-role", "claim": "role"}],
    )
)
# Tokens that Envoy's own filter takes, too: they have a good signature, and nothing that it looks at is wrong.
GOOD_TO_ENVOY = {"no end", "issued later", "another type", "too many audiences"}


def _bearing(text: str) -> tuple[str, ...]:
    return (f"Authorization: Bearer {text}",)


def token_ways(now):
    """Tokens that prove nothing, and requests that have a good one where it does not count."""
    good, other = token(now), token(now, sub="other")
    stranger = {"alg": "RS256", "kid": "rsa", "jwk": jwk(STRANGER), "jku": "https://evil.example.org/keys"}
    yield from (
        Way(f"token: {name}", "/token", _bearing(text))
        for name, (text, _) in hostile(now).items()
        if name not in GOOD_TO_ENVOY
    )
    bad = token(now, key=STRANGER)
    yield Way("token: another in a second cookie", "/token", (*_bearing(good), "Cookie: a=1", f"Cookie: jwt={bad}"))
    yield Way("token: another in a second cookie", "/token", (*_bearing(good), f"Cookie: jwt={bad}", "Cookie: a=1"))
    yield Way("token: keys of its own", "/token", _bearing(token(now, key=STRANGER, headers=stranger)))
    yield Way("token: x5u of its own", "/token", _bearing(token(now, key=STRANGER, headers={"x5u": "https://evil/"})))
    yield Way("token: x5c of its own", "/token", _bearing(token(now, key=STRANGER, headers={"x5c": ["AA=="]})))
    yield Way("token: a key id that is a path", "/token", _bearing(_of_an_empty_secret(now, "../../../dev/null")))
    yield Way("token: a key id that is a query", "/token", _bearing(_of_an_empty_secret(now, "x' UNION SELECT '")))
    zeros = spelled({"alg": "ES256", "kid": "ec"}, claims(now), bytes(64))
    yield Way("token: a signature of zeros", "/token", _bearing(zeros))
    yield Way("token: of capitals", "/token", _bearing(spelled({"alg": "NONE"}, claims(now), b"")))
    yield Way("token: in a token", "/token", _bearing(spelled({"alg": "none", "cty": "JWT"}, good.encode(), b"")))
    yield Way("token: in five parts", "/token", _bearing(f"{good}.x.y"))
    unsigned = spelled({"alg": "none"}, claims(now, sub="root"), b"")
    yield Way("token: parameter twice", f"/token?token={unsigned}&token={good}")
    yield Way("token: parameter twice", f"/token?token={good}&token={unsigned}")
    yield Way("token: parameter twice", f"/token?token={good}&%74oken={unsigned}")
    yield Way("token: parameter of another name", f"/token?Token={good}&token[]={good}&access_token={good}")
    yield Way("token: empty signature", "/token", _bearing(f"{good.rpartition('.')[0]}."))
    yield Way("token: of another issuer", "/token", _bearing(token(now, iss=f"{ISSUER}/")))
    yield Way("token: subject with the issuer in it", "/token", _bearing(token(now, iss="https:", sub=f"x/{SUBJECT}")))
    yield Way("token: two headers", "/token", (*_bearing(good), *_bearing(spelled({"alg": "none"}, {"sub": SUBJECT}))))
    yield Way("token: good and expired", f"/token?token={token(now, exp=1)}", _bearing(good))
    yield Way("token: good and another's", "/token", (*_bearing(other), *_bearing(good)))
    yield Way("token: in a place that is none", "/token", (f"x-token: {good}", f"cookie: token={good}"))
    yield Way("token: in lower case", "/token", (f"Authorization: bearer {good}",))
    yield Way("token: list", "/token", (f"Authorization: Bearer {other}, Bearer {good}",))
    yield Way("token: in the path", f"/token/{good}")
    yield Way("token: none at all", "/token")
    yield Way("token: preflight", "/token", (*_PREFLIGHT, *_bearing(good)), method="OPTIONS")
    yield Way("token: preflight without one", "/token", _PREFLIGHT, method="OPTIONS")
    yield Way("token: a claim's header that the client sends", "/role", ("x-role: admin", *_bearing(good)))
    yield Way("token: a claim's header without a token", "/role", ("x-role: admin",))
    yield Way("token: a claim's header beside another", "/role", ("X-Role: admin", *_bearing(token(now, role="user"))))
    yield Way("token: metadata that the client sends", "/token", ("x-envoy-dynamic-metadata: x", "x-jwt-payload: e30"))
    yield Way("token: none where all but none pass", "/public", ("Authorization: Basic eDp4",))


def _of_an_empty_secret(now, kid):
    """A token whose key would be an empty file, or what a database finds by it."""
    signed = f"{part({'alg': 'HS256', 'kid': kid})}.{part(claims(now))}"
    return f"{signed}.{part(hmac.digest(b'', signed.encode(), 'sha256'))}"


def tokens_that_pass(now):
    """Requests with good tokens, which reach the workload."""
    good = token(now)
    yield Way("token", "/token", _bearing(good))
    yield Way("token", f"/token?token={good}")
    yield Way("token", f"/token?token={good}", _bearing(good))
    yield from (Way(f"token: {name}", "/token", _bearing(hostile(now)[name][0])) for name in GOOD_TO_ENVOY)
    yield Way("token", "/role", _bearing(token(now, role="admin")))


_PREFLIGHT = ("Origin: https://x.org", "Access-Control-Request-Method: GET")

# The same for connections, by the certificate of the peer: whether it reaches the workload.
TCP_POLICIES = """
DENY [{from: [{source: {principals: ['*/sa/cart']}}], to: [{operation: {paths: [/admin]}}]}]
DENY [{from: [{source: {namespaces: ['w.*']}}]}]
"""
CONNECTIONS = {"web": True, "cart2": True, "cart": False, "two": False, "dotted": False}
