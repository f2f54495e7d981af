"""The admin API's frame: who gets in, what an error looks like, what is counted."""

import re

import pytest
from fastapi.routing import APIRoute

from app.transport.rest.routes import Access, Route


def assert_problem(response, status):
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    assert body["type"].startswith("urn:meshward:problem:")
    assert body["request_id"] == response.headers["x-request-id"]
    return body


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("InvalidInputError", 400),
        ("UnauthenticatedError", 401),
        ("PermissionDeniedError", 403),
        ("NotFoundError", 404),
        ("ConflictError", 409),
        ("PreconditionError", 409),
        ("ResourceExhaustedError", 429),
        ("UnimplementedError", 501),
        ("UnavailableError", 503),
        ("DeadlineExceededError", 504),
        ("InternalError", 500),
        ("MeshwardError", 500),
    ],
)
async def test_every_kind_of_error_has_its_status(client, kind, status):
    body = assert_problem(await client.get(f"/v1/fail/{kind}"), status)
    assert body["detail"] == "what happened"
    assert body["violations"] == [{"path": "spec.rules[0]", "problem": "is wrong"}]


async def test_what_is_away_says_when_to_come_back(client):
    assert (await client.get("/v1/fail/UnavailableError")).headers["retry-after"] == "1"


async def test_a_crash_is_told_without_its_detail(client):
    response = await client.get("/v1/crash")
    body = assert_problem(response, 500)
    assert "secret" not in response.text
    assert body["request_id"]


async def test_what_is_not_there_is_a_problem(stranger):
    assert "/v1/nothing" in assert_problem(await stranger.get("/v1/nothing"), 404)["detail"]


async def test_a_method_that_is_not_taken_says_which_are(client):
    response = await client.delete("/v1/things/a")
    assert "DELETE" in assert_problem(response, 405)["detail"]
    assert response.headers["allow"]


async def test_every_route_but_those_of_health_wants_the_token(make_app, stranger):
    app = make_app()
    public = set()
    for route in app.routes:
        assert isinstance(route, APIRoute)
        path = re.sub(r"\{.*?\}", "a", route.path)
        response = await stranger.request(next(iter(route.methods or ())), path)
        if response.status_code == 401:
            assert_problem(response, 401)
            assert response.headers["www-authenticate"].startswith("Bearer")
        else:
            public.add(path)
    assert public == {"/healthz", "/readyz", "/healthcheck", "/metrics"}


async def test_metrics_can_be_closed(make_app):
    import httpx

    transport = httpx.ASGITransport(make_app(metrics_public=False))
    async with httpx.AsyncClient(transport=transport, base_url="http://admin") as client:
        assert (await client.get("/metrics")).status_code == 401


def test_one_method_and_path_cannot_stand_in_the_table_twice(make_app, things):
    with pytest.raises(ValueError, match="twice"):
        make_app(extra=[Route("GET", "/v1/things", things.page, Access.PUBLIC)])


async def test_a_body_at_fault_is_told_field_by_field(client):
    body = assert_problem(await client.post("/v1/things", json={"parts": [{"size": "x"}], "nmae": "a"}), 400)
    assert {item["path"] for item in body["violations"]} == {"name", "nmae", "parts[0].size"}


async def test_a_parameter_at_fault_is_told(client):
    body = assert_problem(await client.get("/v1/things?limit=5000"), 400)
    assert [item["path"] for item in body["violations"]] == ["query.limit"]


async def test_a_created_thing_is_answered_with_its_status(client, things):
    response = await client.post("/v1/things", json={"name": "a"})
    assert response.status_code == 201
    assert response.json() == {"name": "a", "parts": []}


async def test_a_conflict_of_a_conditional_request_is_a_failed_precondition(client):
    assert (await client.put("/v1/things/a", headers={"if-match": '"7"'})).status_code == 200
    assert_problem(await client.put("/v1/things/a", headers={"if-match": '"6"'}), 412)
    assert_problem(await client.put("/v1/things/a", headers={"if-match": 'W/"7"'}), 412)
    assert_problem(await client.put("/v1/things/a", headers={"if-match": "*"}), 400)


@pytest.mark.parametrize(
    "headers",
    [
        [("if-none-match", "*")],
        [("if-unmodified-since", "Sun, 22 Nov 2026 00:00:00 GMT")],
        [("if-match", '"7"'), ("if-match", '"6"')],
    ],
)
async def test_a_change_under_a_condition_that_nobody_evaluates_is_not_made(client, headers):
    assert_problem(await client.put("/v1/things/a", headers=headers), 400)


async def test_a_safe_request_id_is_taken_over_and_any_other_replaced(client):
    response = await client.get("/v1/things", headers={"x-request-id": "abc-1.2_3"})
    assert response.headers["x-request-id"] == "abc-1.2_3"
    for unsafe in ("a b", "a" * 129, "a;b", "<script>", "é".encode()):
        response = await client.get("/v1/things", headers={"x-request-id": unsafe})
        assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])


async def test_every_answer_has_the_headers_that_keep_it_data(client, stranger):
    for response in (await client.get("/v1/things"), await stranger.get("/v1/things"), await client.get("/v1/crash")):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["content-security-policy"].startswith("default-src 'none'")


async def test_requests_are_counted_by_route_and_not_by_path(client, stranger, metrics):
    for name in ("a", "b", "c"):
        await client.get(f"/v1/things/{name}")
        await stranger.get(f"/{name}")
    await client.request("BREW", "/v1/things")
    await client.get("/v1/crash")
    count = metrics.http_requests.value
    assert count("GET", "/v1/things/{name}", "200") == 3
    assert count("GET", "other", "404") == 3
    assert count("GET", "/v1/crash", "500") == 1
    text = (await stranger.get("/metrics")).text
    assert "BREW" not in text
    assert 'meshward_http_requests_total{method="GET",route="/v1/things/{name}",status="200"} 3.0' in text


async def test_the_openapi_document_has_every_route_and_says_which_want_the_token(client):
    document = (await client.get("/openapi.json")).json()
    assert document["components"]["securitySchemes"]["adminToken"]["scheme"] == "bearer"
    assert document["paths"]["/v1/things"]["post"]["security"] == [{"adminToken": []}]
    assert document["paths"]["/healthz"]["get"]["security"] == []
    assert "ProblemBody" in document["components"]["schemas"]
