"""Ways around a policy, as data: requests that must not reach the workload. Add a line to add one.

What protects it is `POLICIES`, written as the guide says for `authz.matching = "istio"`.
"""

from dataclasses import dataclass

from tests.assets.jwts import AUDIENCE, ISSUER, STRANGER, SUBJECT, hostile, jwk, spelled, token
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
"""


@dataclass(frozen=True)
class Way:
    """A request, byte for byte but for the line ends. `peer` is the client's certificate, see `NAMES`."""

    name: str
    target: str = "/public/x"
    headers: tuple[str, ...] = ()
    method: str = "GET"
    host: str = "shop.example.org"
    peer: str = "web"
    body: str = ""


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
    *_paths("escapes in escapes", "/%2561dmin", "/x/%252e%252e/admin", "/x/%25252e%25252e/admin", "/x/..%252fadmin"),
    *_paths("bytes that are not UTF-8", "/%c0%afadmin", "/x/%c0%ae%c0%ae/admin", "/x/..%c0%afadmin", "/x/%c1%9cadmin"),
    *_paths("dot segments", "/./admin", "/x/../admin", "/../admin", "/x/%2e%2e/admin", "/%2e/admin", "/hello/../admin"),
    *_paths(
        "what follows the name", "/admin/", "/admin.", "/admin/.", "/admin/x/..", "/admin%20", "/exact/", "/exact."
    ),
    *_paths("escaped letters", "/%61dmin", "/%61%64%6d%69%6e", "/ad%6Din"),
    *_paths("control characters", "/admin%00", "/x/%00/admin", "/admin\x01", "/public/%00"),
    *_paths("malformed escapes", "/admin%", "/admin%zz", "/needs%"),
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
    Way("timeouts of the client", "/admin", ("x-envoy-upstream-rq-timeout-ms: 1", "x-envoy-expected-rq-timeout-ms: 1")),
    Way("retries of the client", "/admin", ("x-envoy-retry-on: 5xx", "x-envoy-max-retries: 9")),
    Way("a header that the proxy removes", "/needs", ("Connection: x-role", "x-role: admin")),
)

# Requests that reach the workload, so that the others are not refused for another reason.
PASSING = (
    Way("plain", "/public/x"),
    Way("plain", "/hello?x=/admin"),
    Way("exact", "/exact"),
    Way("exact", "/exact?x"),
    Way("value", "/needs", ("x-role: user",)),
    Way("value", "/role", ("x-role: user",)),
    Way("escape", "/public/caf%c3%a9"),
    Way("escape", "/public/a%20b"),
    Way("template", "/t/x/view"),
    Way("method", method="POST", body="x"),
    Way("peer", "/known", peer="cart2"),
    Way("host", host="x-admin.example.org"),
    Way("upgrade", "/hello", ("Origin: https://x.org", "Access-Control-Request-Method: GET"), method="OPTIONS"),
)

# Headers by which a framework would read another method or path: the workload must not get them.
OVERRIDES = (
    Way("another method", headers=("x-http-method-override: DELETE",), method="POST"),
    Way("another method", headers=("X-HTTP-Method: DELETE", "x-method-override: DELETE"), method="POST"),
    Way("another path", headers=("x-original-url: /admin", "x-rewrite-url: /admin")),
    Way("another path", headers=("x-envoy-original-path: /admin",)),
)
FORBIDDEN_HEADERS = (
    *("x-http-method-override", "x-http-method", "x-method-override"),
    *("x-original-url", "x-rewrite-url", "x-envoy-original-path"),
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
    yield Way("token: keys of its own", "/token", _bearing(token(now, key=STRANGER, headers=stranger)))
    yield Way("token: x5u of its own", "/token", _bearing(token(now, key=STRANGER, headers={"x5u": "https://evil/"})))
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
