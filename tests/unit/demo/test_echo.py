import httpx
import pytest

from app.demo.echo import MAX_BODY_BYTES, echo_app, relay_app


def client(app):
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://workload")


async def test_the_echo_returns_the_request():
    async with client(echo_app("api")) as ask:
        answer = await ask.post(
            "/a/b?x=1&y",
            content=b"12345",
            headers=[("x-forwarded-client-cert", "URI=u"), ("x-two", "1"), ("x-two", "2")],
        )
    seen = answer.json()
    assert answer.status_code == 200
    assert (seen["workload"], seen["method"], seen["path"], seen["query"]) == ("api", "POST", "/a/b", "x=1&y")
    assert seen["headers"]["x-forwarded-client-cert"] == "URI=u"
    assert seen["headers"]["x-two"] == "1, 2"
    assert seen["body_bytes"] == 5


@pytest.mark.parametrize("size", [MAX_BODY_BYTES, MAX_BODY_BYTES + 1])
async def test_the_body_of_a_request_is_bounded(size):
    async with client(echo_app("api")) as ask:
        answer = await ask.post("/", content=b"x" * size)
    assert answer.status_code == (200 if size == MAX_BODY_BYTES else 413)


async def relayed(answer, **request):
    asked = []

    def peer(seen):
        asked.append(seen)
        return answer(seen) if callable(answer) else answer

    app = relay_app("http://127.0.0.1:15001", httpx.MockTransport(peer))
    async with client(app) as ask:
        return await ask.request(**{"method": "GET", "url": "/", **request}), asked


async def test_the_relay_sends_the_request_to_its_sidecar_and_returns_the_answer():
    given = httpx.Response(
        429, headers=[("x-ratelimit-reset", "7"), ("set-cookie", "a=1"), ("set-cookie", "b=2")], text="no"
    )
    answer, (asked,) = await relayed(
        given, method="PUT", url="/a%2fb/../c?q=%20", content=b"body", headers={"x-mine": "1"}
    )
    assert (asked.method, asked.content, asked.headers["x-mine"]) == ("PUT", b"body", "1")
    assert asked.url.host == "127.0.0.1"
    assert asked.url.port == 15001
    assert (answer.status_code, answer.text, answer.headers["x-ratelimit-reset"]) == (429, "no", "7")
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]


async def test_the_relay_does_not_change_the_path():
    _, (asked,) = await relayed(httpx.Response(200), url="/a%2Fb%20c?q=%2F")
    assert asked.url.raw_path == b"/a%2Fb%20c?q=%2F"


async def test_headers_of_one_connection_are_not_relayed():
    given = httpx.Response(200, headers={"keep-alive": "timeout=5", "x-kept": "1"}, text="x")
    answer, (asked,) = await relayed(given, headers={"te": "trailers", "proxy-connection": "close"})
    assert "te" not in asked.headers
    assert "proxy-connection" not in asked.headers
    assert "keep-alive" not in answer.headers
    assert answer.headers["x-kept"] == "1"


async def test_a_sidecar_that_is_away_is_reported_with_502():
    def away(request):
        raise httpx.ConnectError("connection refused")

    answer, _ = await relayed(away)
    assert answer.status_code == 502
    assert answer.text == "no answer from http://127.0.0.1:15001: connection refused\n"
