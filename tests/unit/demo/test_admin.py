import json
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from app.core.net import Address
from app.core.private_files import replace_private_file
from app.demo.admin import AdminApi, EnvoyAdmin
from app.demo.plan import WEB
from app.demo.steps import UnexpectedError

ADDRESS = Address("127.0.0.1", 15014)


def client(answer):
    return httpx.AsyncClient(transport=httpx.MockTransport(answer))


@pytest.fixture
def token_file(tmp_path):
    file = tmp_path / "admin.token"
    replace_private_file(file, b"secret\n")
    return file


async def test_the_admin_token_is_sent(token_file):
    seen = []

    def answer(request):
        seen.append(request)
        return httpx.Response(200)

    await AdminApi(client(answer), ADDRESS, token_file).apply_policies("kind: AuthorizationPolicy")
    (request,) = seen
    assert (request.method, str(request.url)) == ("POST", "http://127.0.0.1:15014/v1/policies")
    assert request.headers["authorization"] == "Bearer secret"
    assert request.headers["content-type"] == "application/yaml"


@pytest.mark.parametrize(
    ("stored", "change"), [([], ("POST", "/v1/entries")), ([{"id": "7"}], ("PUT", "/v1/entries/7"))]
)
async def test_an_entry_is_made_or_replaced(token_file, stored, change):
    seen = []

    def answer(request):
        seen.append(request)
        return httpx.Response(200, json={"items": stored})

    await AdminApi(client(answer), ADDRESS, token_file).set_entry(WEB, 10)
    looked, changed = seen
    assert dict(looked.url.params) == {"spiffe_id": str(WEB)}
    assert (changed.method, changed.url.path) == change
    assert json.loads(changed.content) == {"spiffe_id": str(WEB), "x509_svid_ttl_seconds": 10}


@pytest.mark.parametrize(
    ("svids", "issued"), [([], False), ([{"join_token_id": None}], False), ([{"join_token_id": "7"}], True)]
)
async def test_an_svid_that_a_join_token_was_given_for_is_told_from_others(token_file, svids, issued):
    admin = AdminApi(client(lambda request: httpx.Response(200, json={"items": svids})), ADDRESS, token_file)
    assert await admin.has_issued(WEB) is issued


async def test_a_refusal_says_what_was_asked_and_what_was_answered(token_file):
    admin = AdminApi(client(lambda request: httpx.Response(403, text="no")), ADDRESS, token_file)
    with pytest.raises(UnexpectedError) as caught:
        await admin.delete_policy("demo", "x")
    assert caught.value.seen == "403 no"
    assert "DELETE /v1/policies/demo/x" in caught.value.expected
    assert caught.value.logs == ("control-plane",)


async def test_a_control_plane_is_ready_when_it_says_so_and_takes_our_token(token_file):
    def away(request):
        raise httpx.ConnectError("connection refused")

    def ours(request):
        authorized = request.headers.get("authorization") == "Bearer secret"
        return httpx.Response(200 if request.url.path == "/readyz" or authorized else 401)

    def others(request):
        return httpx.Response(200 if request.url.path == "/readyz" else 401)

    async def ready(answer, file=token_file):
        return await AdminApi(client(answer), ADDRESS, file).ready()

    assert await ready(ours)
    assert not await ready(away)
    assert not await ready(others)
    assert not await ready(ours, token_file.with_name("not-made-yet"))
    assert not await ready(lambda request: httpx.Response(503 if request.url.path == "/readyz" else 200))


async def test_envoys_certificates_are_read_each_once():
    chain = {
        "serial_number": "0a",
        "subject_alt_names": [{"uri": "spiffe://example.org/ns/a/sa/b"}, {"dns": "x"}],
        "expiration_time": "2026-01-01T00:00:00Z",
    }
    document = {"certificates": [{"ca_cert": [], "cert_chain": [chain]}, {"cert_chain": [chain]}, {"ca_cert": []}]}
    (held,) = await EnvoyAdmin(client(lambda request: httpx.Response(200, json=document)), ADDRESS).certificates()
    assert held.serial == "0a"
    assert held.uris == ("spiffe://example.org/ns/a/sa/b",)
    assert held.expires == datetime(2026, 1, 1, tzinfo=UTC)


async def test_handshakes_of_every_listener_are_added_up():
    text = "listener.127.0.0.1_1.ssl.handshake: 3\nlistener.127.0.0.1_2.ssl.handshake: 4\n"
    assert await EnvoyAdmin(client(lambda request: httpx.Response(200, text=text)), ADDRESS).handshakes() == 7


@pytest.mark.parametrize(
    ("state", "config", "ready"),
    [("LIVE", "/demo/web.json", True), ("INITIALIZING", "/demo/web.json", False), ("LIVE", "/other/web.json", False)],
)
async def test_an_envoy_is_ready_when_it_is_live_and_ours(state, config, ready):
    told = {"state": state, "command_line_options": {"config_path": config}}
    envoy = EnvoyAdmin(client(lambda request: httpx.Response(200, json=told)), ADDRESS)
    assert await envoy.ready(Path("/demo/web.json")) is ready


async def test_an_envoy_that_does_not_answer_is_not_ready():
    def away(request):
        raise httpx.ConnectError("connection refused")

    assert not await EnvoyAdmin(client(away), ADDRESS).ready(Path("/demo/web.json"))
    assert not await EnvoyAdmin(client(lambda request: httpx.Response(503)), ADDRESS).ready(Path("/demo/web.json"))
