"""Who may use the admin API: every route, without a token, with a wrong one, by every method."""

import re

import httpx
import pytest

from app.core.clock import SystemClock
from app.main.parts import make_parts
from app.main.routes import route_table
from app.settings import Settings
from app.transport.rest.routes import Access

ROWS = route_table(make_parts(Settings(), SystemClock()))
# What every client of a CA fetches without a credential.
PUBLIC_ROWS = {"/crl/{authority_id}"}
ROUTES = [(row.method, row.path) for row in ROWS if row.access is Access.ADMIN]
PUBLIC_PATHS = {"/healthz", "/readyz", "/healthcheck", "/metrics"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


@pytest.fixture(scope="module")
def admin(shared_server):
    with httpx.Client(base_url=shared_server.url, timeout=20) as client:
        yield client


def filled(path):
    return re.sub(r"\{[^}]*\}", "x", path)


def assert_refused(answer):
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"].startswith("Bearer")
    problem = answer.json()
    assert problem["status"] == 401
    assert problem["request_id"] == answer.headers["x-request-id"]


def test_every_row_of_the_table_is_for_who_bears_the_token():
    assert {row.path for row in ROWS if row.access is not Access.ADMIN} == PUBLIC_ROWS
    rows = [row for row in ROWS if row.access is Access.ADMIN]
    assert {row.path for row in rows if not row.path.startswith("/v1/")} == {"/rlconfig"}


@pytest.mark.parametrize(
    "credential",
    [None, "Bearer wrong", "Bearer", "Basic YWRtaW46YWRtaW4=", "Token x"],
    ids=["none", "wrong", "empty", "basic", "of another scheme"],
)
def test_every_route_refuses_who_does_not_bear_the_token(admin, credential):
    headers = {} if credential is None else {"authorization": credential}
    for method, path in [*ROUTES, ("GET", "/openapi.json")]:
        assert_refused(admin.request(method, filled(path), headers=headers, content=b"{}"))


def test_half_of_the_token_and_more_than_the_token_are_wrong(admin, shared_server):
    token = shared_server.token
    for wrong in (token[:-1], token + "x", token.swapcase(), token[::-1]):
        assert_refused(admin.get("/v1/ca", headers={"authorization": f"Bearer {wrong}"}))
    twice = [("authorization", f"Bearer {token}"), ("authorization", f"Bearer {token}")]
    assert_refused(admin.get("/v1/ca", headers=twice))


def test_the_token_is_not_taken_from_anywhere_else(admin, shared_server):
    token = shared_server.token
    assert_refused(admin.get("/v1/ca", params={"token": token, "access_token": token}))
    assert_refused(admin.get("/v1/ca", headers={"cookie": f"token={token}; authorization=Bearer {token}"}))
    assert_refused(admin.get("/v1/ca", headers={"x-authorization": f"Bearer {token}"}))


def test_no_other_method_gets_round_the_token(admin):
    paths = {filled(path) for _, path in ROUTES} | {"/openapi.json"}
    for path in sorted(paths):
        for method in METHODS:
            answer = admin.request(method, path, content=b"{}" if method not in {"GET", "HEAD"} else None)
            assert answer.status_code in {401, 405}, (method, path)


@pytest.mark.parametrize(
    "form", ["/v1//ca", "/v1/ca/", "//v1/ca", "/V1/ca", "/v1/%63a", "/healthz/../v1/ca", "/v1/./ca"]
)
def test_no_other_spelling_gets_round_the_token(admin, form):
    assert admin.get(form, follow_redirects=True).status_code in {401, 404, 405}


def test_the_document_tells_which_paths_are_public(shared_server):
    paths = shared_server.get("/openapi.json")["paths"]
    public = {path for path, methods in paths.items() for row in methods.values() if row["security"] == []}
    assert public == {*PUBLIC_PATHS, "/crl/{authority_id}"}
    described = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert {(method, path.replace(":path}", "}")) for method, path in ROUTES} <= described


def test_what_is_public_says_nothing_secret(admin, shared_server):
    shared_server.ask("POST", "/v1/join-tokens", json={"spiffe_id": "spiffe://cluster.local/ns/hidden/sa/name"})
    for path in PUBLIC_PATHS:
        answer = admin.get(path)
        assert answer.status_code == 200
        assert "hidden" not in answer.text
        assert shared_server.token not in answer.text
