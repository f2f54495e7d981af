"""Ways around a policy, as data: requests that must not reach the workload. Add a line to add one.

What protects it is `POLICIES`, written as the guide says for `authz.matching = "istio"`.
"""

from dataclasses import dataclass

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
