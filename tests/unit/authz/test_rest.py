"""The policies in the admin API."""

import json

import httpx
import pytest
from fastapi import FastAPI

from app.authz.rest.policies import POLICIES_PATH, PolicyRest, show_policy
from app.core.errors import MeshwardError
from app.transport.rest.authentication import current_principal
from app.transport.rest.problems import from_error
from tests.fakes.authz import policy, request
from tests.fakes.checks import policy_service
from tests.fakes.principals import OPERATOR

DENY_ALL = policy("{action: DENY, rules: [{}]}")
ALLOW_ALL = policy("{rules: [{}]}")
ONE = "/v1/policies/shop/p"


@pytest.fixture
async def service():
    return await policy_service()


@pytest.fixture
async def client(service):
    rest = PolicyRest(service.documents, POLICIES_PATH, show_policy)
    app = FastAPI()
    app.dependency_overrides[current_principal] = lambda: OPERATOR
    app.add_exception_handler(MeshwardError, from_error)  # type: ignore[arg-type]  # handlers are typed by the root class
    app.add_api_route(POLICIES_PATH, rest.list, methods=["GET"])
    app.add_api_route(POLICIES_PATH, rest.apply, methods=["POST"])
    app.add_api_route(f"{POLICIES_PATH}/validate", rest.validate, methods=["POST"])
    app.add_api_route(f"{POLICIES_PATH}/{{namespace}}/{{name}}", rest.get, methods=["GET"])
    app.add_api_route(f"{POLICIES_PATH}/{{namespace}}/{{name}}", rest.put, methods=["PUT"])
    app.add_api_route(f"{POLICIES_PATH}/{{namespace}}/{{name}}", rest.delete, methods=["DELETE"], status_code=204)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://admin") as client:
        yield client


async def test_many_documents_are_applied_and_read_back(client, service):
    made = await client.post("/v1/policies", content=DENY_ALL + policy("{}", "q"))
    assert made.status_code == 201
    assert [(item["name"], item["change"]) for item in made.json()["items"]] == [("p", "created"), ("q", "created")]
    assert not service.check(request()).allowed
    read = await client.get(ONE)
    assert read.json()["document"]["spec"] == {"action": "DENY", "rules": [{}]}
    assert read.json()["updated_at"] == "2026-01-01T12:00:00Z"
    assert read.headers["etag"] == '"1"'


async def test_json_is_accepted_as_one_document_and_in_a_list(client):
    document = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "p", "namespace": "shop"},
        "spec": {"rules": [{}]},
    }
    assert (await client.post("/v1/policies", content=json.dumps(document))).status_code == 201
    assert (await client.post("/v1/policies", content=json.dumps([document]))).json()["items"][0][
        "change"
    ] == "unchanged"


async def test_what_was_there_before_is_200(client):
    await client.post("/v1/policies", content=DENY_ALL)
    again = await client.post("/v1/policies", content=ALLOW_ALL)
    assert (again.status_code, again.json()["items"][0]["change"]) == (200, "updated")


async def test_one_bad_document_is_400_with_every_path_and_changes_nothing(client, service):
    bad = policy("{action: BLOCK, x: 1}", "q")
    for path in ("/v1/policies", "/v1/policies/validate"):
        refused = await client.post(path, content=DENY_ALL + bad)
        assert refused.status_code == 400
        paths = [violation["path"] for violation in refused.json()["violations"]]
        assert paths == ["documents[1].spec.action", "documents[1].spec.x"]
    assert (await client.get("/v1/policies")).json()["items"] == []
    assert service.check(request()).allowed


@pytest.mark.parametrize("body", ["", "a: [", "a: 1\na: 2", "\x00", "just text"])
async def test_a_body_that_is_no_document_is_400(client, body):
    assert (await client.post("/v1/policies", content=body)).status_code == 400


async def test_validating_reports_what_would_be_accepted(client):
    answer = await client.post("/v1/policies/validate", content=DENY_ALL)
    assert answer.json()["items"] == [
        {"namespace": "shop", "name": "p", "action": "DENY", "dry_run": False, "rules": 1, "warnings": []}
    ]
    assert (await client.get(ONE)).status_code == 404


async def test_what_a_policy_says_in_vain_is_in_the_answer(client):
    odd = policy("{rules: [{to: [{operation: {paths: [/ok, /a/../b]}}]}]}", "odd")
    for path in ("/v1/policies/validate", "/v1/policies", "/v1/policies"):
        first, second = (await client.post(path, content=DENY_ALL + odd)).json()["items"]
        assert first["warnings"] == []
        (warning,) = second["warnings"]
        assert warning["path"] == "spec.rules[0].to[0].operation.paths[1]"
        assert "makes '/b' of '/a/../b'" in warning["problem"]
    answer = await client.put("/v1/policies/shop/odd", content=odd)
    assert answer.json()["warnings"] == [warning]
    assert answer.json()["document"]["metadata"]["name"] == "odd"
    assert (await client.put(ONE, content=DENY_ALL)).json()["warnings"] == []


async def test_pages_go_through_all_policies(client):
    await client.post("/v1/policies", content="".join(policy("{}", f"p{n}") for n in range(5)))
    names, cursor = [], None
    while True:
        params = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await client.get("/v1/policies", params=params)).json()
        names += [item["name"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert names == [f"p{n}" for n in range(5)]
    assert (await client.get("/v1/policies", params={"namespace": "other"})).json()["items"] == []


@pytest.mark.parametrize("cursor", ["x", "!!", "Li4vLi4"])
async def test_a_cursor_that_was_not_made_here_is_400(client, cursor):
    assert (await client.get("/v1/policies", params={"cursor": cursor})).status_code == 400


async def test_a_policy_is_put_and_deleted_only_in_the_version_that_was_read(client, service):
    made = await client.put(ONE, content=DENY_ALL)
    assert (made.status_code, made.headers["location"]) == (201, ONE)
    stale = {"If-Match": '"99"'}
    assert (await client.put(ONE, content=ALLOW_ALL, headers=stale)).status_code == 412
    assert (await client.delete(ONE, headers=stale)).status_code == 412
    current = {"If-Match": made.headers["etag"]}
    replaced = await client.put(ONE, content=ALLOW_ALL, headers=current)
    assert replaced.status_code == 200
    assert replaced.headers["etag"] != made.headers["etag"]
    assert service.check(request()).allowed
    assert (await client.delete(ONE, headers={"If-Match": replaced.headers["etag"]})).status_code == 204
    assert (await client.get(ONE)).status_code == 404
    assert (await client.delete(ONE)).status_code == 404


async def test_putting_takes_one_document_and_that_of_the_path(client):
    assert (await client.put(ONE, content=DENY_ALL + policy("{}", "q"))).status_code == 400
    assert (await client.put("/v1/policies/shop/other", content=DENY_ALL)).status_code == 400
