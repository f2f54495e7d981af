"""HTTP checks: which parts of the request are read, and that the status is 200 or 403."""

import asyncio

import pytest

from app.authz.model import AuthzOptions, Cause, Matching, Verdict
from app.authz.providers import Changes, ProvidedDecision
from app.authz.rpc import http as asgi
from app.authz.rpc.destination import Gateways
from app.authz.rpc.http import HttpAuthorization
from app.core.decision import Decision, Outcome
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Credential, Principal
from tests.fakes.authz import policy
from tests.fakes.checks import API, FRONT, policy_service
from tests.fakes.engine import WaitingEngine

DENY_ADMIN = policy("{action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}", "no-admin")
FROM_FRONT = policy("{rules: [{from: [{source: {principals: [cluster.local/ns/web/sa/front]}}]}]}", "front")
SIDECAR = Principal(Credential.SVID, SpiffeId.parse(API))


async def ask(
    text="",
    path="/",
    *,
    method="GET",
    caller=SIDECAR,
    headers=(),
    host=b"shop.example.org",
    scope=None,
    body=(b"",),
    engine=None,
    matching=Matching.STRICT,
    **options,
):
    service = await policy_service(text, engine=engine, options=AuthzOptions(matching=matching))
    application = HttpAuthorization(service, **options)
    raw = f"/ext_authz{path}".encode()
    full = {
        "type": "http",
        "method": method,
        "path": raw.decode(),
        "raw_path": raw,
        "query_string": b"token=secret",
        "headers": [(b"host", host), *headers],
        "state": {"meshward.principal": caller} if caller else {},
        **(scope or {}),
    }
    chunks = list(body)
    sent = []

    async def receive():
        return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

    async def send(message):
        sent.append(message)

    await application(full, receive, send)
    start, end = sent
    return start["status"], dict(start["headers"]), end["body"].decode(), chunks


async def status(*args, **kwargs) -> int:
    return (await ask(*args, **kwargs))[0]


async def test_the_path_after_the_prefix_is_matched_without_its_query():
    assert await status(DENY_ADMIN, "/hello") == 200
    assert await status(DENY_ADMIN, "/admin") == 403
    assert await status(DENY_ADMIN, "/a/%2e%2e/admin") == 403


async def test_pseudo_headers_are_those_of_the_request():
    def when(name, value):
        return policy(f"{{rules: [{{when: [{{key: 'request.headers[{name}]', values: ['{value}']}}]}}]}}")

    for name, value in ((":authority", "shop.example.org"), (":path", "/a?token=secret")):
        assert await status(when(name, value), "/a") == 200
        assert await status(when(name, "other"), "/a") == 403
    assert await status(when(":path", "/a"), "/a", scope={"query_string": b""}) == 200
    told = ((b"x-meshward-forwarded-headers", b"*"),)  # so that no header names another method
    assert await status(when(":method", "GET"), "/a", headers=told) == 200
    assert await status(when(":method", "PUT"), "/a", headers=told) == 403
    assert await status(when(":scheme", "*"), "/a") == 403  # a check over HTTP does not tell it


async def test_a_denial_names_the_request_and_the_rule_only_where_configured():
    _, headers, body, _ = await ask(DENY_ADMIN, "/admin")
    assert body.startswith("GET /admin was denied")
    assert "no-admin" not in body + str(headers)
    assert "secret" not in body
    _, headers, body, _ = await ask(DENY_ADMIN, "/admin", expose_decision=True)
    assert headers[b"x-meshward-decision"] == b"deny; policy=shop/no-admin; rule=rules[0]"
    assert "no-admin" in body


@pytest.mark.parametrize(("outcome", "expected"), [(Outcome.ALLOW, 200), (Outcome.DENY, 403)])
async def test_a_check_whose_engine_waits_is_answered_when_its_verdict_is_there(outcome, expected):
    engine = WaitingEngine()
    waiting = asyncio.ensure_future(status(engine=engine))
    await engine.asked.wait()
    assert not waiting.done()
    engine.answer(Verdict(Decision(outcome, "decided by another engine"), Cause.POLICY))
    assert await waiting == expected


async def test_the_answer_to_a_head_has_no_body():
    assert (await ask(DENY_ADMIN, "/admin", method="HEAD"))[2] == ""


async def test_without_an_svid_the_destination_comes_from_headers_that_the_proxy_sets():
    named = [(b"x-meshward-namespace", b"shop")]
    assert await status(DENY_ADMIN, "/admin", caller=None, headers=named) == 403
    assert await status(DENY_ADMIN, "/hello", caller=None, headers=named) == 200
    assert await status(DENY_ADMIN, "/hello", caller=None) == 403
    assert await status(DENY_ADMIN, "/hello", headers=[(b"x-meshward-namespace", b"other")]) == 403
    assert await status(DENY_ADMIN, "/hello", caller=None, headers=[*named, *named]) == 403


async def test_a_caller_speaks_for_the_namespaces_of_the_settings():
    named = [(b"x-meshward-namespace", b"other")]
    assert await status(DENY_ADMIN, "/hello", headers=named, gateways=Gateways({API: frozenset({"other"})})) == 200
    assert await status(DENY_ADMIN, "/hello", headers=named, gateways=Gateways({API: frozenset({"third"})})) == 403


async def test_labels_come_from_a_header_that_the_proxy_sets():
    text = policy("{selector: {matchLabels: {app: shop}}, action: DENY, rules: [{}]}")
    assert await status(text, headers=[(b"x-meshward-labels", b"app=shop,v=1")]) == 403
    assert await status(text, headers=[(b"x-meshward-labels", b"app=other")]) == 200
    assert await status(text) == 403
    assert (
        await status(text, headers=[(b"x-meshward-labels", b"app=other"), (b"x-meshward-labels", b"app=shop")]) == 403
    )


async def test_the_peer_headers_are_trusted_only_where_configured():
    forwarded = [(b"x-forwarded-client-cert", b"Hash=ab;URI=" + FRONT.encode())]
    assert await status(FROM_FRONT, headers=forwarded) == 403
    assert await status(FROM_FRONT, headers=forwarded, trust_forwarded_client_cert=True) == 200
    assert await status(FROM_FRONT, trust_forwarded_client_cert=True) == 403


async def test_a_missing_peer_is_denied_by_a_rule_about_peers():
    text = policy("{action: DENY, rules: [{from: [{source: {namespaces: [evil]}}]}]}")
    forwarded = [(b"x-meshward-forwarded-headers", b"x-forwarded-client-cert")]
    assert await status(text) == 403
    assert await status(text, headers=forwarded) == 403
    assert await status(text, trust_forwarded_client_cert=True) == 403
    assert await status(text, headers=forwarded, trust_forwarded_client_cert=True) == 200


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (f"URI={FRONT}", 200),
        (f'By=spiffe://x/y;Hash=ab;Subject="CN=\\"a,b;c\\",O=x";uri="{FRONT}"', 200),
        (f"URI=spiffe://cluster.local/ns/a/sa/b,Hash=1;URI={FRONT}", 200),
        (f"URI={FRONT},URI=spiffe://cluster.local/ns/a/sa/b", 403),
        (f"URI={FRONT};URI={FRONT}", 403),
        ("Hash=ab", 403),
        ("", 403),
        (f'Subject="URI={FRONT}', 403),
        (f'Subject="x;URI={FRONT}"', 403),
        (f"URI={FRONT}\x00", 403),
        ("URI=" + "x" * 20_000, 403),
    ],
)
async def test_the_peer_is_the_last_element_with_exactly_one_uri(value, expected):
    headers = [(b"x-forwarded-client-cert", value.encode())]
    assert await status(FROM_FRONT, headers=headers, trust_forwarded_client_cert=True) == expected


async def test_the_peer_header_twice_is_denied():
    headers = [(b"x-forwarded-client-cert", f"URI={FRONT}".encode())] * 2
    assert await status(FROM_FRONT, headers=headers, trust_forwarded_client_cert=True) == 403


async def test_addresses_and_ports_come_from_headers_that_the_proxy_sets():
    text = policy(
        "{rules: [{from: [{source: {ipBlocks: [10.0.0.0/8]}}], to: [{operation: {ports: ['8080']}}],"
        " when: [{key: destination.ip, values: [10.9.9.9]}, {key: connection.sni, values: [a]}]}]}"
    )
    headers = [
        (b"x-meshward-source-ip", b"10.1.1.1"),
        (b"x-meshward-destination-ip", b"10.9.9.9"),
        (b"x-meshward-destination-port", b"8080"),
        (b"x-meshward-sni", b"a"),
    ]
    assert await status(text, headers=headers, trust_forwarded_client_cert=True) == 200
    assert await status(text, headers=headers) == 403
    assert await status(text, headers=headers[:-1], trust_forwarded_client_cert=True) == 403


def header(values, action="ALLOW", name="x-role"):
    return policy(f"{{action: {action}, rules: [{{when: [{{key: 'request.headers[{name}]', {values}}}]}}]}}", "p")


ADMIN, NOT_ADMIN, ANY_ROLE = "values: [admin]", "notValues: [admin]", "values: ['*']"


@pytest.mark.parametrize(
    ("declared", "is_known"),
    [
        (None, False),
        (b"", False),
        (b"x-tenant", False),
        (b"x-rol", False),
        (b"*, !x-role", False),
        (b"*, !x-*", False),
        (b"x-role, !X-Role", False),
        (b"x-role", True),
        (b" X-Tenant ,X-Role", True),
        (b"x-*", True),
        (b"*", True),
        (b"*, !connection", True),
    ],
)
async def test_a_rule_about_an_absent_header_denies_unless_the_proxy_declares_to_forward_it(declared, is_known):
    headers = [] if declared is None else [(b"x-meshward-forwarded-headers", declared)]
    for text, absent in (
        (header(ADMIN, "DENY"), 200),
        (header(ANY_ROLE, "DENY"), 200),
        (header(NOT_ADMIN, "DENY"), 403),
        (header(NOT_ADMIN), 200),
        (header(ADMIN), 403),
    ):
        assert await status(text, headers=headers) == (absent if is_known else 403), text
    assert await status(header(ADMIN), headers=[*headers, (b"x-role", b"admin")]) == 200
    assert await status(header(ADMIN, "DENY"), headers=[*headers, (b"x-role", b"user")]) == 200
    assert await status("", headers=headers) == 200


async def test_a_denial_says_which_headers_were_not_forwarded():
    _, _, body, _ = await ask(header(ADMIN, "DENY"), expose_decision=True)
    assert "denied by rules[0] of policy shop/p; not known, because the proxy does not" in body
    assert "forwards them: x-role." in body
    for text, headers in ((header(ADMIN), [(b"x-role", b"user")]), (header(ADMIN, "DENY"), [(b"x-role", b"admin")])):
        _, _, body, _ = await ask(text, headers=headers, expose_decision=True)
        assert "not known" not in body
    _, _, body, _ = await ask(header(ADMIN), expose_decision=True)
    assert "no rule of the workload's ALLOW policies matches; not known" in body
    assert "forwards them: x-role." in body


@pytest.mark.parametrize("declared", [b"x y", b"a,*b", b"a:b", b"!!a", b"a*b", "x-rôle".encode(), b"a," * 4097])
async def test_a_declaration_that_is_not_written_as_one_denies(declared):
    assert await status("", headers=[(b"x-meshward-forwarded-headers", declared)]) == 403


async def test_a_declaration_twice_denies_as_one_of_them_is_not_the_proxys():
    assert await status("", headers=[(b"x-meshward-forwarded-headers", b"*")] * 2) == 403


@pytest.mark.parametrize("name", ["x-meshward-labels", "content-length", "x-envoy-internal"])
async def test_the_checks_own_headers_are_not_those_of_the_request(name):
    headers = [(b"x-meshward-forwarded-headers", b"*"), (name.encode(), b"a=1")]
    assert await status(header("values: ['*']", name=name), headers=headers) == 403
    assert await status(header("notValues: ['*']", name=name), headers=headers) == 403
    assert await status(header("notValues: ['*']", "DENY", name), headers=headers) == 403
    assert await status("", headers=headers) == 200


DENY_DELETE = policy("{action: DENY, rules: [{to: [{operation: {methods: [DELETE]}}]}]}")


async def test_a_method_that_a_header_may_override_is_any_method_unless_such_headers_are_forwarded():
    overrides = [(b"x-meshward-forwarded-headers", b"x-http-method, x-http-method-override, x-method-override")]
    assert await status(DENY_DELETE, method="POST") == 403
    assert await status(DENY_DELETE, method="POST", headers=[(b"x-meshward-forwarded-headers", b"x-http-*")]) == 403
    assert await status(DENY_DELETE, method="POST", headers=overrides) == 200
    assert await status(DENY_DELETE, method="POST", headers=[*overrides, (b"x-http-method", b"DELETE")]) == 403
    allow_get = policy("{rules: [{to: [{operation: {methods: [GET]}}]}]}")
    assert await status(allow_get) == 403
    assert await status(allow_get, headers=overrides) == 200
    _, _, body, _ = await ask(DENY_DELETE, method="POST", headers=[(b"x-http-method", b"POST")], expose_decision=True)
    assert "forwards them: x-http-method-override, x-method-override." in body
    _, _, body, _ = await ask(allow_get, expose_decision=True)
    assert "x-method-override" in body
    assert await status(DENY_ADMIN, "/hello", method="POST") == 200


@pytest.mark.parametrize(
    "scope",
    [
        {"raw_path": b"/ext_authz"},
        {"raw_path": b"/ext_authz%2fadmin"},
        {"raw_path": b"/other/ext_authz/admin"},
        {"raw_path": b"/ext_authz/\xff"},
        {"raw_path": b"/ext_authz/%00"},
        {"raw_path": None},
        {"method": "get"},
        {"headers": [(b"host", b"a"), (b"host", b"b")]},
        {"headers": [(b"host", b"a/b")]},
        {"headers": None},
    ],
)
async def test_what_cannot_be_read_is_403_even_without_policies(scope):
    assert await status("", "/", scope=scope) == 403


async def test_a_body_is_read_within_bounds_and_ignored(monkeypatch):
    monkeypatch.setattr(asgi, "MAX_BODY_BYTES", 10)
    assert (await ask(body=(b"abc", b"abc", b"")))[3] == []
    code, _, _, left = await ask(body=[b"x" * 8] * 9)
    assert code == 200
    assert len(left) == 7


async def test_a_header_that_is_not_utf_8_is_written_as_it_came():
    changes = Changes(headers=(("cookie", b"x=\xff".decode("utf-8", "surrogateescape")),))
    verdict = Verdict(ProvidedDecision(Outcome.ALLOW, "allowed", changes=changes), Cause.POLICY)
    engine = WaitingEngine()
    asking = asyncio.ensure_future(ask(engine=engine))
    await engine.asked.wait()
    engine.answer(verdict)
    answered, headers, *_ = await asking
    assert (answered, headers[b"cookie"]) == (200, b"x=\xff")


@pytest.mark.parametrize("matching", Matching)
@pytest.mark.parametrize(
    ("action", "value", "statuses"), [("DENY", "admin", (403, 403, 200)), ("ALLOW", "user", (403, 403, 200))]
)
async def test_values_that_envoy_joined_are_matched_strictly(matching, action, value, statuses):
    """Envoy sends `x-role: user` and `x-role: admin` as one header."""
    text = policy(f"{{action: {action}, rules: [{{when: [{{key: 'request.headers[x-role]', values: [{value}]}}]}}]}}")
    for sent, status in zip((b"user,admin", b"admin,user", b"user"), statuses, strict=True):
        headers = ((b"x-role", sent), (b"x-meshward-forwarded-headers", b"*"))
        assert (await ask(text, headers=headers, matching=matching))[0] == status


async def test_the_content_type_is_the_one_that_the_proxy_kept_of_the_request():
    text = policy("{rules: [{when: [{key: 'request.headers[content-type]', values: [application/json]}]}]}")
    for kept, expected in ((b"application/json", 200), (b"text/plain", 403), (b"", 403)):
        assert await status(text, headers=[(b"x-meshward-content-type", kept)]) == expected


@pytest.mark.parametrize("matching", Matching)
async def test_a_server_name_is_denied_in_any_case(matching):
    text = policy("{action: DENY, rules: [{when: [{key: connection.sni, values: [shop.example.org]}]}]}")
    for name, status in ((b"SHOP.example.org", 403), (b"shop.example.org", 403), (b"cart.example.org", 200)):
        assert (await ask(text, headers=((b"x-meshward-sni", name),), matching=matching))[0] == status
