"""Ways around a policy that attackers try, each through a check as Envoy sends it."""

import pytest

from app.authz.rpc.check import AuthorizationRpc
from tests.fakes.authz import policy
from tests.fakes.checks import check_answer, check_request, policy_service

DENY_ADMIN = policy("{action: DENY, rules: [{to: [{operation: {paths: [/admin, '/admin/*']}}]}]}")
ALLOW_PUBLIC = policy("{rules: [{to: [{operation: {paths: ['/public/*']}}]}]}")
ALLOW_EXACT = policy("{rules: [{to: [{operation: {paths: [/status]}}]}]}")
DENY_DELETE = policy("{action: DENY, rules: [{to: [{operation: {methods: [DELETE]}}]}]}")
DENY_HOST = policy("{action: DENY, rules: [{to: [{operation: {hosts: [admin.example.org]}}]}]}")
DENY_ROLE = policy("{action: DENY, rules: [{when: [{key: 'request.headers[x-role]', values: [admin]}]}]}")
NEEDS_ROLE = policy("{rules: [{when: [{key: 'request.headers[x-role]', values: [admin]}]}]}")
NOT_MALLORY = policy("{rules: [{from: [{source: {notPrincipals: [cluster.local/ns/evil/sa/mallory]}}]}]}")


async def allows(text, *args, **kwargs) -> bool:
    rpc = AuthorizationRpc(await policy_service(text))
    response = check_answer(rpc, check_request(*args, **kwargs))
    assert response.status.code in {0, 7}
    return response.status.code == 0


@pytest.mark.parametrize(
    "path",
    [
        "/admin",
        "/admin/",
        "//admin",
        "/.//admin",
        "///admin",
        "/./admin",
        "/x/../admin",
        "/../admin",
        "/../../admin",
        "/%2e/admin",
        "/x/%2E%2e/admin",
        "/%61dmin",
        "/%41dmin/../admin",
        "/admin%2fusers",
        "/admin%2Fusers",
        "/admin%5cusers",
        "\\admin",
        "/x\\..\\admin",
        "/x%5c..%5cadmin",
        "/x%2f..%2fadmin",
        "/x/..%2fadmin",
        "/x/%2e%2e%2fadmin",
        "/admin;x=y",
        "/admin;",
        "/;x/admin",
        "/x/..;/admin",
        "/x/..;a=b/admin",
        "/x/%2e%2e;/admin",
        "/%2561dmin",
        "/%252e%252e%252fadmin",
        "/x/%25252e%25252e/admin",
        "/admin%252fusers",
        "/admin?x",
        "/admin?/../public",
        "/admin/%2e",
        "/admin/.",
        "/admin/x/..",
        "//x/..//admin",
        "/x//../admin",
        "/x/;/../admin",
        "/x/.;/../admin",
        "/x/%3b/../admin",
        "/x/%253b/..;/admin",
        "/x%2f%2f../admin",
        "/x/a%5c..%5c../admin",
        "/admin%3b",
        "/admin%253bx",
        "/admin%3f",
        "/admin%23/x",
        "/admin%2500",
        "/admin%252500",
        "/admin%25c0%25af",
    ],
)
async def test_no_spelling_of_a_denied_path_is_allowed(path):
    assert not await allows(DENY_ADMIN, path)


@pytest.mark.parametrize(
    "path",
    [
        "/public/../secret",
        "/public/%2e%2e/secret",
        "/public/..%2fsecret",
        "/public/..%5csecret",
        "/public\\..\\secret",
        "/public/..;/secret",
        "/public/..;x=/secret",
        "/public/%252e%252e/secret",
        "/public/..%252fsecret",
        "/secret?/public/",
        "/secret?x=/public/y",
        "/secret/..;/../public;/x",
        "//public/x/../../secret",
        "/public//../secret",
        "/public/;/../secret",
        "/public/.;/../secret",
        "/public/%3b/../secret",
        "/public%2f../secret",
        "/public/%2500",
        "/secret%3f/public/",
    ],
)
async def test_no_spelling_takes_a_request_out_of_an_allowed_path(path):
    assert not await allows(ALLOW_PUBLIC, path)


@pytest.mark.parametrize(
    "path", ["/status;x=/secret/..", "/status/", "/status/.", "/status%20", "/status%3f", "/STATUS"]
)
async def test_an_exact_path_allows_only_that_path(path):
    assert not await allows(ALLOW_EXACT, path)


async def test_an_ordinary_path_and_its_query_are_allowed():
    for path in ("/status", "/status?x=../admin", "/status?a=%zz#"):
        assert await allows(ALLOW_EXACT, path)
    assert await allows(ALLOW_PUBLIC, "/public/a%20b/%C3%A4.html")
    assert await allows(ALLOW_PUBLIC, "/public/a%2Fb;x=1//me%40example.org")


@pytest.mark.parametrize(
    "path",
    [
        "/x%00",
        "/x%0a",
        "/x%7f",
        "/x%",
        "/x%2",
        "/x%zz",
        "/x%u0041",
        "/%c0%afadmin",
        "/%c0%ae%c0%ae/admin",
        "/%e0%80%af",
        "/%ff",
        "/x y",
        "/x\tY",
        "/x\x00",
        "/ä",
        "/x#y",
        "#",
        "*",
        "x",
        "",
        "http://shop.example.org/x",
        "pkg.Service/Method",
        "/%" + "25" * 20 + "61",
        "/%2500",
        "/%25250a",
        "/%25ff",
        "/" + "a" * 8192,
        "/;//..%2f%5c%253b/..;%3f//",
    ],
)
async def test_a_path_that_can_be_read_in_no_agreed_way_is_denied_even_without_policies(path):
    assert not await allows("", path)


async def test_a_character_is_denied_with_its_escape_and_an_escape_with_its_character():
    for pattern, path in (
        ("/me@here", "/me%40here"),
        ("/me%40here", "/me@here"),
        ("/a.b", "/a%2eb"),
        ("/a;b", "/a%3bb"),
    ):
        denying = policy(f"{{action: DENY, rules: [{{to: [{{operation: {{paths: ['{pattern}']}}}}]}}]}}")
        assert not await allows(denying, path)


@pytest.mark.parametrize("method", ["delete", "Delete", "DELETE ", "", "GET\n", "GET /", "GÉT"])
async def test_a_method_that_is_not_written_as_one_is_denied(method):
    assert not await allows("", method=method)


@pytest.mark.parametrize("header", ["x-http-method-override", "x-http-method", "x-method-override"])
async def test_a_method_in_a_header_is_matched_too(header):
    assert await allows(DENY_DELETE, method="POST")
    assert not await allows(DENY_DELETE, method="POST", headers={header: "DELETE"})
    assert not await allows(DENY_DELETE, method="POST", headers={header: "delete"})
    assert not await allows(DENY_DELETE, method="POST", raw_headers=[(header, b"GET"), (header, b"DELETE")])


@pytest.mark.parametrize(
    "host",
    ["admin.example.org", "ADMIN.example.org", "admin.example.org.", "admin.example.org:80", "Admin.Example.Org.:8080"],
)
async def test_no_spelling_of_a_denied_host_is_allowed(host):
    assert not await allows(DENY_HOST, host=host)


@pytest.mark.parametrize(
    "host",
    [
        "a@admin.example.org",
        "admin.example.org/x",
        "admin.example.org#",
        "a b",
        "a,b",
        "a:b",
        "a:1:2",
        "a:999999",
        "[::1",
        "a\x00",
        "ädmin.example.org",
        "a..",
        ".",
        "x" * 300,
    ],
)
async def test_a_host_that_is_none_is_denied(host):
    assert not await allows("", host=host)


@pytest.mark.parametrize(
    "values",
    [
        [b"admin"],
        [b"user", b"admin"],
        [b"admin", b"user"],
        [b"user, admin"],
        [b"user,admin"],
        [b"user ,admin "],
        [b"", b"admin"],
        [b"\xff", b"admin"],
    ],
)
async def test_a_denied_value_is_found_wherever_it_stands_in_a_header(values):
    raw = [("X-Role", value) for value in values]
    assert not await allows(DENY_ROLE, raw_headers=raw)
    merged = b",".join(values).decode("utf-8", "replace")
    assert not await allows(DENY_ROLE, headers={"x-role": merged})


@pytest.mark.parametrize(
    "values", [[b"admin", b"user"], [b"admin,user"], [b"admin\xff"], [b"ADMIN"], [b"admin\x00"], [b""]]
)
async def test_a_header_grants_only_if_every_value_matches(values):
    assert not await allows(NEEDS_ROLE, raw_headers=[("x-role", value) for value in values])


@pytest.mark.parametrize("header", ["x-envoy-original-path", "x-original-url", "x-rewrite-url", "x-forwarded-host"])
async def test_headers_that_name_another_path_or_host_do_not_count(header):
    assert not await allows(ALLOW_PUBLIC, "/secret", headers={header: "/public/x"})
    assert not await allows(DENY_ADMIN, "/admin", headers={header: "/public/x"})


async def test_plaintext_and_unknown_identities_do_not_pass_as_another_identity():
    assert await allows(NOT_MALLORY)
    assert not await allows(NOT_MALLORY, principal="")
    for principal in (
        "spiffe://cluster.local/ns/evil/sa/mallory\x00",
        "spiffe://cluster.local/ns/evil/sa/mallory/",
        "SPIFFE://cluster.local/ns/web/sa/front",
        "cluster.local/ns/web/sa/front",
        "spiffe://cluster.local/ns/evil/../web/sa/front",
        "spiffe://cluster.local/ns/web%2fsa/front",
        "spiffe://cluster.local/ns/web/sa/front,spiffe://cluster.local/ns/a/sa/b",
    ):
        assert not await allows(NOT_MALLORY, principal=principal)


@pytest.mark.parametrize(
    "headers",
    [
        {"upgrade": "websocket", "connection": "upgrade"},
        {"origin": "https://a", "access-control-request-method": "GET"},
    ],
)
async def test_upgrades_and_preflights_are_checked_like_any_request(headers):
    assert not await allows(DENY_ADMIN, "/admin", headers=headers)
    assert not await allows(ALLOW_PUBLIC, "/x", method="OPTIONS", headers=headers)


async def test_a_dot_or_bracket_in_a_policy_is_no_expression():
    text = policy(
        "{rules: [{to: [{operation: {paths: ['/a.b[c]', '/v.1/*']}}], from: [{source: {namespaces: [w.b]}}]}]}"
    )
    assert not await allows(text, "/aXbc")
    wild = policy("{rules: [{from: [{source: {namespaces: ['w.b*']}}]}]}")
    assert not await allows(wild)
