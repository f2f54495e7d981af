"""What a hostile client sends to the admin API, and that it costs it nothing but an answer."""

import asyncio

import pytest

from app.transport.rest.edge import MAX_BODY_BYTES
from tests.support.fixtures.rest import TOKEN

BEARER = {"authorization": f"Bearer {TOKEN}"}


async def chunks(count, size):
    for _ in range(count):
        yield b" " * size


def post_raw(*headers):
    """The ASGI scope of a POST by somebody who bears the token."""
    return {
        "type": "http",
        "method": "POST",
        "path": "/v1/raw",
        "raw_path": b"/v1/raw",
        "query_string": b"",
        "headers": [(b"authorization", BEARER["authorization"].encode()), *headers],
        "client": ("192.0.2.1", 1),
        "server": ("admin", 80),
        "scheme": "http",
        "http_version": "1.1",
    }


async def test_a_declared_body_that_is_too_large_is_refused_before_it_is_read(make_app):
    """Straight over ASGI, so that nothing is sent: a `receive` that is asked for a byte fails the test."""
    answer = []

    async def receive():
        raise AssertionError("the body was asked for")

    async def send(message):
        answer.append(message)

    await make_app()(post_raw((b"content-length", str(MAX_BODY_BYTES + 1).encode())), receive, send)
    assert answer[0]["status"] == 413
    assert (b"connection", b"close") in answer[0]["headers"]


@pytest.mark.parametrize("path", ["/v1/raw", "/v1/things"])
async def test_a_streamed_body_is_counted_whatever_it_declares(client, things, path):
    response = await client.post(
        path, content=chunks((MAX_BODY_BYTES >> 16) + 1, 1 << 16), headers={"content-type": "application/json"}
    )
    assert response.status_code == 413
    assert response.headers["content-type"] == "application/problem+json"
    assert things.seen == []


async def test_a_body_of_the_largest_size_passes(client):
    response = await client.post("/v1/raw", content=chunks(MAX_BODY_BYTES >> 16, 1 << 16))
    assert response.json() == {"length": MAX_BODY_BYTES}


async def test_a_body_that_trickles_is_given_up(make_app, monkeypatch):
    monkeypatch.setattr("app.transport.rest.edge.BODY_TIMEOUT_SECONDS", 0.001)
    answer = []

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        answer.append(message)

    async with asyncio.timeout(10):
        await make_app()(post_raw(), receive, send)
    assert answer[0]["status"] == 408


async def test_a_stranger_is_turned_away_before_the_body_is_looked_at(stranger, things):
    for content in (b"{", b"\xff\xff", b" " * (MAX_BODY_BYTES + 1)):
        for path in ("/v1/raw", "/v1/things"):
            response = await stranger.post(path, content=content, headers={"content-type": "application/json"})
            assert response.status_code == 401
    assert things.seen == []


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"",
        b"null",
        b"[]",
        b'"x"',
        b"\xff\xfe",
        b'{"name": "a", "name2": NaN}',
        b'{"name": ' + b"[" * 100_000,
        b'{"name": {"a": 1}}',
        b'{"name": 1e999}',
        b'{"name": "' + b"\\ud800" + b'", "x": 1}',
        b'{"\\u0000": 1}',
        b'{"name": "a", "parts": [{"size": 1' + b"0" * 5000 + b"}]}",
        b'{"name": "a", "parts": [' + b'{"size": "x"},' * 10_000 + b'{"size": "x"}]}',
    ],
)
async def test_a_body_that_makes_no_sense_is_a_problem(client, things, content):
    response = await client.post("/v1/things", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    assert len(response.content) < 64_000
    assert things.seen == []


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        ";",
        None,
    ],
)
async def test_a_body_of_another_type_is_refused(client, things, content_type):
    headers = {"content-type": content_type} if content_type else {}
    response = await client.post("/v1/things", content=b'{"name": "a"}', headers=headers)
    assert response.status_code == 415
    assert things.seen == []


@pytest.mark.parametrize(
    "path",
    [
        "/v1/things/../../healthz",
        "//v1/things",
        "/v1//things",
        "/V1/things",
        "/v1/things/",
        "/v1/things;/",
        "/healthz/../v1/things",
        "/metrics/%2e%2e/v1/things",
        "/v1%2fthings",
        "/%00",
    ],
)
async def test_no_spelling_of_a_path_gets_a_stranger_in(stranger, path):
    response = await stranger.get(path)
    assert response.status_code in {307, 401, 404} or response.url.path == "/healthz"


@pytest.mark.parametrize(
    "headers",
    [
        {"x-original-url": "/healthz"},
        {"x-rewrite-url": "/healthz"},
        {"x-http-method-override": "GET"},
        {"x-forwarded-for": "127.0.0.1"},
        {"forwarded": "for=127.0.0.1"},
        {"x-forwarded-user": "admin"},
        {"host": "localhost"},
        {"cookie": f"authorization=Bearer {TOKEN}"},
        {"proxy-authorization": f"Bearer {TOKEN}"},
        {"origin": "http://admin"},
    ],
)
async def test_no_header_but_the_token_gets_a_stranger_in(stranger, headers):
    response = await stranger.get("/v1/things", headers=headers)
    assert response.status_code == 401
    assert "access-control-allow-origin" not in response.headers


async def test_the_token_in_the_url_does_not_count(stranger):
    for query in (f"access_token={TOKEN}", f"token={TOKEN}", f"authorization=Bearer%20{TOKEN}"):
        assert (await stranger.get(f"/v1/things?{query}")).status_code == 401


async def test_a_browser_gets_no_permission_from_another_origin(stranger):
    response = await stranger.options(
        "/v1/things", headers={"origin": "http://evil.example", "access-control-request-method": "POST"}
    )
    assert response.status_code == 405
    assert not [name for name in response.headers if name.startswith("access-control")]


async def test_what_is_echoed_cannot_be_a_header_or_a_page(stranger):
    response = await stranger.get("/%0d%0aset-cookie:a=b/<script>alert(1)</script>")
    assert "set-cookie" not in response.headers
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-content-type-options"] == "nosniff"
