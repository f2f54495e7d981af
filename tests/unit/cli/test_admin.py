"""The client of the admin API: the token it sends, and the error for each failure."""

import httpx
import pytest

from app.cli.admin import AdminClient, path_segment
from app.core.errors import InternalError as OwnFault
from app.core.errors import InvalidInputError, NotFoundError, PreconditionError, UnauthenticatedError, UnavailableError

TOKEN = "a-token-that-only-this-test-knows"


@pytest.fixture
def client(tmp_path):
    """Make a client of a control plane that answers as `answer` does."""

    def make(answer, url="http://127.0.0.1:15014"):
        return AdminClient(url, TOKEN, tmp_path / "admin.token", httpx.MockTransport(answer))

    return make


def problem(status, **fields):
    body = {"type": "urn:x", "title": "x", "status": status, "detail": "what is wrong", **fields}
    return lambda _request: httpx.Response(status, json=body, headers={"content-type": "application/problem+json"})


def test_the_token_goes_with_every_request(client):
    def answer(request):
        assert request.headers["authorization"] == f"Bearer {TOKEN}"
        return httpx.Response(200, json={"path": request.url.path})

    assert client(answer).get("/v1/ca") == {"path": "/v1/ca"}


def test_the_token_of_the_data_dir_is_used_if_none_is_given(tmp_path):
    path = tmp_path / "admin.token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    seen = []

    def answer(request):
        seen.append(request.headers["authorization"])
        return httpx.Response(204)

    AdminClient("http://localhost:1", None, path, httpx.MockTransport(answer)).delete("/v1/entries/a")
    assert seen == [f"Bearer {TOKEN}"]


def test_without_a_token_the_error_names_both_ways_to_give_one(tmp_path):
    with pytest.raises(NotFoundError, match=r"admin\.token.*MESHWARD_ADMIN_TOKEN"):
        AdminClient("http://localhost:1", None, tmp_path / "admin.token")


def test_a_token_that_others_can_read_is_not_used(tmp_path):
    path = tmp_path / "admin.token"
    path.write_text(TOKEN)
    path.chmod(0o644)
    with pytest.raises(PreconditionError, match="chmod 600"):
        AdminClient("http://localhost:1", None, path)


@pytest.mark.parametrize("token", ["tökén", "bad\ntoken", " \t", "null\0"])
def test_a_malformed_token_is_refused_before_a_request_is_sent(tmp_path, token):
    with pytest.raises(InvalidInputError, match="MESHWARD_ADMIN_TOKEN") as caught:
        AdminClient("http://localhost:1", token, tmp_path / "admin.token")
    assert token.strip() not in caught.value.message or not token.strip()


def test_a_listing_is_read_page_after_page(client):
    pages = {None: {"items": [{"id": 1}], "next_cursor": "c"}, "c": {"items": [{"id": 2}], "next_cursor": None}}
    found = client(lambda request: httpx.Response(200, json=pages[request.url.params.get("cursor")])).items("/v1/x")
    assert [item["id"] for item in found] == [1, 2]


def test_a_refusal_has_the_message_of_the_server(client):
    refused = client(problem(400, violations=[{"path": "ttl", "problem": "is too long"}]))
    with pytest.raises(InvalidInputError, match="what is wrong") as caught:
        refused.post("/v1/x", {})
    assert [str(violation) for violation in caught.value.violations] == ["ttl: is too long"]
    with pytest.raises(NotFoundError, match="what is wrong"):
        client(problem(404)).get("/v1/x")


def test_a_wrong_token_is_reported_with_its_source(client):
    with pytest.raises(UnauthenticatedError, match="MESHWARD_ADMIN_TOKEN") as caught:
        client(problem(401)).get("/v1/x")
    assert TOKEN not in caught.value.message


@pytest.mark.parametrize("status", [200, 302, 400, 404, 500])
@pytest.mark.parametrize("body", [b"<html>", b"[]", b'"x"', b'{"detail": 1, "violations": 3}', b"\xff"])
def test_an_answer_of_another_server_is_recognised(client, status, body):
    other = client(lambda _request: httpx.Response(status, content=body))
    if status == 200 and body not in {b"<html>", b"\xff"}:
        assert other.get("/v1/x") is not None
        return
    with pytest.raises(OwnFault, match="is it Meshward's admin port"):
        other.get("/v1/x")


def test_a_refused_connection_is_reported_with_what_to_do(client):
    def refuse(request):
        raise httpx.ConnectError("connection refused", request=request)

    with pytest.raises(UnavailableError, match="start it with meshward serve"):
        client(refuse).get("/v1/x")


def test_a_timeout_is_reported(client):
    def wait(request):
        raise httpx.ReadTimeout("", request=request)

    with pytest.raises(UnavailableError, match="did not answer within 30 seconds"):
        client(wait).get("/v1/x")


@pytest.mark.parametrize("url", ["", "127.0.0.1:15014", "ftp://host", "http://", "unix:///x"])
def test_a_malformed_url_is_refused(client, url):
    with pytest.raises(InvalidInputError, match="is not a URL"):
        client(problem(200), url)


def test_sending_the_token_unencrypted_to_another_machine_prints_a_warning(client, capsys):
    client(problem(200), "http://mesh.example:15014")
    assert "mesh.example unencrypted" in capsys.readouterr().err
    for safe in ("http://localhost:1", "http://[::1]:1", "https://mesh.example"):
        client(problem(200), safe)
        assert capsys.readouterr().err == ""


def test_a_path_segment_is_escaped():
    assert path_segment("../../x?y#z") == "..%2F..%2Fx%3Fy%23z"
