"""The configurations in the admin API."""

import json
import threading
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.core.errors import MeshwardError
from app.documents import compiling as compiling_module
from app.documents.parser import parse_documents
from app.quota import service as service_module
from app.quota.model import MAX_ENTRIES, Code, Descriptor
from app.quota.rest import CONFIG_PATH, CONFIGS_PATH, EXPLAIN_PATH, QuotaRest
from app.quota.rules.tree import compile_config
from app.transport.rest.authentication import current_principal
from app.transport.rest.pages import encode_cursor
from app.transport.rest.problems import from_error
from tests.fakes.principals import OPERATOR
from tests.fakes.quota import Quota

YAML = """
domain: edge
descriptors:
- key: remote_address
  rate_limit: {unit: minute, requests_per_unit: 1}
"""
OTHER_YAML = YAML.replace("minute", "hour")
DOCUMENT = {
    "domain": "edge",
    "descriptors": [{"key": "remote_address", "rate_limit": {"unit": "minute", "requests_per_unit": 1}}],
}


@asynccontextmanager
async def client_of(service):
    await service.documents.refresh()
    rest = QuotaRest(service)
    app = FastAPI()
    app.dependency_overrides[current_principal] = lambda: OPERATOR
    app.add_exception_handler(MeshwardError, from_error)  # type: ignore[arg-type]  # handlers are typed by the root class
    app.add_api_route(EXPLAIN_PATH, rest.explain, methods=["POST"])
    app.add_api_route(CONFIGS_PATH, rest.list, methods=["GET"])
    app.add_api_route(CONFIG_PATH, rest.get, methods=["GET"])
    app.add_api_route(CONFIG_PATH, rest.put, methods=["PUT"])
    app.add_api_route(CONFIG_PATH, rest.delete, methods=["DELETE"], status_code=204)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://admin") as client:
        yield client


@pytest.fixture
async def client(service):
    async with client_of(service) as client:
        yield client


async def test_a_yaml_document_is_put_in_force_and_read_back(client, service, clock):
    made = await client.put("/v1/quota/configs/edge", content=YAML)
    assert (made.status_code, made.headers["location"]) == (201, "/v1/quota/configs/edge")
    read = await client.get("/v1/quota/configs/edge")
    assert read.status_code == 200
    assert read.json() | {"warnings": []} == made.json()
    assert read.json()["document"] == DOCUMENT
    assert read.json()["updated_at"] == "2026-01-01T12:00:00Z"
    assert read.headers["etag"] == made.headers["etag"]
    asked = [Descriptor((("remote_address", "10.0.0.1"),))]
    codes = [service.ask("edge", asked, 0).code for _ in range(2)]
    assert codes == [Code.OK, Code.OVER_LIMIT]


@pytest.mark.parametrize("content_type", ["application/json", "application/yaml", "application/x-www-form-urlencoded"])
async def test_a_json_document_is_taken_under_any_content_type(client, content_type):
    response = await client.put(
        "/v1/quota/configs/edge", content=json.dumps(DOCUMENT), headers={"content-type": content_type}
    )
    assert response.status_code == 201


async def test_the_deepest_document_is_shown(client):
    descriptor: dict[str, Any] = {
        "key": "k",
        "rate_limit": {"unit": "day", "requests_per_unit": 1, "replaces": [{"name": "n"}]},
    }
    for _ in range(MAX_ENTRIES - 1):
        descriptor = {"key": "k", "descriptors": [descriptor]}
    document = {"domain": "edge", "descriptors": [descriptor]}
    assert (await client.put("/v1/quota/configs/edge", content=json.dumps(document))).status_code == 201
    assert (await client.get("/v1/quota/configs/edge")).json()["document"] == document
    assert (await client.get("/v1/quota/configs")).json()["items"][0]["document"] == document


async def test_a_name_that_is_replaced_and_that_no_limit_has_is_a_warning(client):
    text = YAML.replace("requests_per_unit: 1", "requests_per_unit: 1, name: a, replaces: [{name: b}]")
    answer = await client.put("/v1/quota/configs/edge", content=text)
    assert (answer.status_code, answer.json()["warnings"]) == (
        201,
        [{"path": "descriptors[0].rate_limit.replaces", "problem": "no limit of the domain is called 'b'"}],
    )


async def test_replacing_answers_200_and_another_etag(client):
    first = await client.put("/v1/quota/configs/edge", content=YAML)
    second = await client.put("/v1/quota/configs/edge", content=OTHER_YAML)
    assert second.status_code == 200
    assert second.headers["etag"] != first.headers["etag"]


async def test_putting_what_is_stored_already_changes_nothing(client, configs):
    first = await client.put("/v1/quota/configs/edge", content=YAML)
    again = await client.put("/v1/quota/configs/edge", content=json.dumps(DOCUMENT))
    assert (again.status_code, again.json()) == (200, first.json())
    assert again.headers["etag"] == first.headers["etag"]
    assert len(configs.records) == 1


async def test_a_change_can_depend_on_what_was_read(client):
    etag = (await client.put("/v1/quota/configs/edge", content=YAML)).headers["etag"]
    fresh = await client.put("/v1/quota/configs/edge", content=OTHER_YAML, headers={"if-match": etag})
    assert fresh.status_code == 200
    stale = await client.put("/v1/quota/configs/edge", content=YAML, headers={"if-match": etag})
    assert stale.status_code == 412
    assert (await client.delete("/v1/quota/configs/edge", headers={"if-match": etag})).status_code == 412
    assert (await client.get("/v1/quota/configs/edge")).headers["etag"] == fresh.headers["etag"]


async def test_what_is_deleted_is_gone(client):
    etag = (await client.put("/v1/quota/configs/edge", content=YAML)).headers["etag"]
    deleted = await client.delete("/v1/quota/configs/edge", headers={"if-match": etag})
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert (await client.get("/v1/quota/configs/edge")).status_code == 404
    assert (await client.delete("/v1/quota/configs/edge")).status_code == 404


async def test_pages_list_every_domain_in_order(client):
    for domain in ("c", "a", "shop/eg/http", "b"):
        response = await client.put(f"/v1/quota/configs/{domain}", content=f"domain: {domain}")
        assert response.status_code == 201
    seen, cursor = [], None
    while True:
        page = (
            await client.get("/v1/quota/configs", params={"limit": 2, **({"cursor": cursor} if cursor else {})})
        ).json()
        seen += [item["domain"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == ["a", "b", "c", "shop/eg/http"]


@pytest.mark.parametrize("key", ["edge", "namespace/edge", "/ edge", "/"])
async def test_a_cursor_that_was_not_made_here_is_400(client, key):
    assert (await client.get("/v1/quota/configs", params={"cursor": encode_cursor(key)})).status_code == 400
    assert (await client.get("/v1/quota/configs", params={"cursor": encode_cursor("/edge")})).status_code == 200


async def test_a_domain_with_slashes_has_its_own_place(client):
    made = await client.put("/v1/quota/configs/shop/eg/http", content="domain: shop/eg/http")
    assert made.headers["location"] == "/v1/quota/configs/shop/eg/http"
    assert (await client.get("/v1/quota/configs/shop%2Feg%2Fhttp")).json()["domain"] == "shop/eg/http"


@pytest.mark.parametrize(
    ("content", "path"),
    [
        ("", ""),
        ("domain: edge\n---\ndomain: edge", ""),
        ("domain: edge\ndomain: edge", "line 2, column 1"),
        ("domain: other", "domain"),
        ("domain: edge\ndescriptors: [{key: a, value: b, weight: 1}]", "descriptors[0].weight"),
    ],
)
async def test_a_bad_document_is_refused_with_the_place_of_its_fault(client, content, path):
    response = await client.put("/v1/quota/configs/edge", content=content)
    assert response.status_code == 400
    assert [violation["path"] for violation in response.json()["violations"]] == [path]
    assert (await client.get("/v1/quota/configs/edge")).status_code == 404


async def test_a_database_that_is_away_is_told_as_such(client, configs):
    configs.away = True
    assert (await client.put("/v1/quota/configs/edge", content=YAML)).status_code == 503
    assert (await client.get("/v1/quota/configs")).status_code == 503


async def test_a_document_is_read_and_compiled_where_it_keeps_no_check_waiting(monkeypatch):
    threads = []

    def watched(function):
        def wrapper(*args, **options):
            threads.append(threading.get_ident())
            return function(*args, **options)

        return wrapper

    monkeypatch.setattr(compiling_module, "parse_documents", watched(parse_documents))
    monkeypatch.setattr(service_module, "compile_config", watched(compile_config))
    async with client_of(Quota()) as client:
        assert (await client.put("/v1/quota/configs/edge", content=YAML)).status_code == 201
    assert len(threads) == 2
    assert threading.get_ident() not in threads


async def test_a_request_is_explained_and_counts_nothing(client, service, metrics):
    await client.put("/v1/quota/configs/edge", content=YAML)
    descriptors = [{"entries": [{"key": "remote_address", "value": "10.0.0.1"}]}, {"entries": [{"key": "x"}]}]
    for _ in range(3):
        answer = await client.post(EXPLAIN_PATH, json={"domain": "edge", "descriptors": descriptors})
    first, second = answer.json()["items"]
    assert (first["rule"], first["counter"], first["steps"][0]["matched"]) == (
        "edge.remote_address",
        ["10.0.0.1"],
        "remote_address",
    )
    assert (second["limit"], second["reason"].startswith("nothing is configured for x=")) == (None, True)
    assert metrics.rules.value("edge", "remote_address") == {}
    assert (first["remaining"], second["remaining"]) == (1, None)
    service.ask("edge", [Descriptor((("remote_address", "10.0.0.1"),))], 1)
    answer = await client.post(EXPLAIN_PATH, json={"domain": "edge", "descriptors": descriptors})
    assert (answer.json()["items"][0]["remaining"], answer.json()["items"][0]["reset_seconds"]) == (0, 60)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"domain": "unknown", "descriptors": [{"entries": []}]}, 404),
        ({"domain": "edge", "descriptors": []}, 422),
        ({"domain": "edge", "descriptors": [{"entries": [{"key": "k", "value": 5}]}]}, 422),
        ({"domain": "edge", "descriptors": [{"entries": [{"key": "k"}] * 101}]}, 422),
        ({"domain": "edge", "descriptors": [{"entries": [{"key": "k" * 1025}]}]}, 422),
    ],
)
async def test_a_request_that_cannot_be_explained_is_refused(client, body, status):
    await client.put("/v1/quota/configs/edge", content=YAML)
    assert (await client.post(EXPLAIN_PATH, json=body)).status_code == status
