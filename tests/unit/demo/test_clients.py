"""Clients of the admin API and of Envoy's admin port, the steady load, and the certificate of an unknown CA."""

import asyncio
import json
import stat
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from app.core.private_files import replace_private_file
from app.demo.clients import (
    MAX_FAILURES_KEPT,
    AdminApi,
    EnvoyAdmin,
    Tally,
    steady_load,
    tls_client,
    unknown_ca_pem,
)
from app.demo.mesh import WEB
from app.demo.steps import UnexpectedError

URL = "http://127.0.0.1:15014"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


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

    await AdminApi(client(answer), URL, token_file).apply_policies("kind: AuthorizationPolicy")
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

    await AdminApi(client(answer), URL, token_file).set_entry(WEB, 10)
    looked, changed = seen
    assert dict(looked.url.params) == {"spiffe_id": str(WEB)}
    assert (changed.method, changed.url.path) == change
    assert json.loads(changed.content) == {"spiffe_id": str(WEB), "x509_svid_ttl_seconds": 10}


@pytest.mark.parametrize(
    ("svids", "issued"), [([], False), ([{"join_token_id": None}], False), ([{"join_token_id": "7"}], True)]
)
async def test_only_an_svid_that_was_issued_for_a_join_token_counts(token_file, svids, issued):
    admin = AdminApi(client(lambda request: httpx.Response(200, json={"items": svids})), URL, token_file)
    assert await admin.has_issued(WEB) is issued


async def test_a_refusal_has_the_request_and_the_answer(token_file):
    admin = AdminApi(client(lambda request: httpx.Response(403, text="no")), URL, token_file)
    with pytest.raises(UnexpectedError) as caught:
        await admin.delete_policy("demo", "x")
    assert caught.value.seen == "403 no"
    assert "DELETE /v1/policies/demo/x" in caught.value.expected
    assert caught.value.logs == ("control-plane",)


async def test_a_control_plane_is_ready_when_it_reports_so_and_accepts_our_token(token_file):
    def away(request):
        raise httpx.ConnectError("connection refused")

    def ours(request):
        authorized = request.headers.get("authorization") == "Bearer secret"
        return httpx.Response(200 if request.url.path == "/readyz" or authorized else 401)

    def others(request):
        return httpx.Response(200 if request.url.path == "/readyz" else 401)

    async def ready(answer, file=token_file):
        return await AdminApi(client(answer), URL, file).ready()

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
    (held,) = await EnvoyAdmin(client(lambda request: httpx.Response(200, json=document)), URL).certificates()
    assert held.serial == "0a"
    assert held.uris == ("spiffe://example.org/ns/a/sa/b",)
    assert held.expires == datetime(2026, 1, 1, tzinfo=UTC)


async def test_handshakes_of_every_listener_are_added_up():
    text = "listener.127.0.0.1_1.ssl.handshake: 3\nlistener.127.0.0.1_2.ssl.handshake: 4\n"
    assert await EnvoyAdmin(client(lambda request: httpx.Response(200, text=text)), URL).handshakes() == 7


@pytest.mark.parametrize(
    ("state", "config", "ready"),
    [("LIVE", "/demo/web.json", True), ("INITIALIZING", "/demo/web.json", False), ("LIVE", "/other/web.json", False)],
)
async def test_an_envoy_is_ready_when_it_is_live_and_ours(state, config, ready):
    info = {"state": state, "command_line_options": {"config_path": config}}
    envoy = EnvoyAdmin(client(lambda request: httpx.Response(200, json=info)), URL)
    assert await envoy.ready(Path("/demo/web.json")) is ready


async def test_an_envoy_that_does_not_answer_is_not_ready():
    def away(request):
        raise httpx.ConnectError("connection refused")

    assert not await EnvoyAdmin(client(away), URL).ready(Path("/demo/web.json"))
    assert not await EnvoyAdmin(client(lambda request: httpx.Response(503)), URL).ready(Path("/demo/web.json"))


async def test_the_load_requests_repeatedly_until_its_end():
    enough = asyncio.Event()
    asked = []

    def answer(request):
        asked.append(request)
        if len(asked) == 3:
            enough.set()
        return httpx.Response(503 if len(asked) == 2 else 200, text="away")

    async with steady_load(client(answer), "http://api/hello") as tally:
        await asyncio.wait_for(enough.wait(), 5)
    assert tally.sent >= 2
    assert (tally.failed, tally.failures) == (1, ["status 503: away"])
    sent = len(asked)
    await asyncio.sleep(0)
    assert len(asked) == sent


async def test_a_connection_that_breaks_is_a_failure():
    broken = asyncio.Event()

    def answer(request):
        broken.set()
        raise httpx.ReadError("reset")

    async with steady_load(client(answer), "http://api/hello") as tally:
        await asyncio.wait_for(broken.wait(), 5)
    assert tally.failed == tally.sent >= 1
    assert tally.failures[0] == "reset"


async def test_the_exception_that_ended_a_client_early_is_raised():
    asked = asyncio.Event()

    def answer(request):
        asked.set()
        raise KeyError("a fault of the load itself")

    with pytest.raises(KeyError):
        async with steady_load(client(answer), "http://api/hello"):
            await asyncio.wait_for(asked.wait(), 5)


def test_only_the_first_failures_are_kept():
    tally = Tally()
    for number in range(MAX_FAILURES_KEPT + 3):
        tally.note(str(number))
    tally.note(None)
    assert (tally.sent, tally.failed, len(tally.failures)) == (MAX_FAILURES_KEPT + 4, MAX_FAILURES_KEPT + 3, 5)
    assert tally.failures[0] == "0"


def test_only_the_signer_of_the_certificate_of_an_unknown_ca_is_wrong():
    leaf, root = x509.load_pem_x509_certificates(unknown_ca_pem(WEB, NOW))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.UniformResourceIdentifier) == [str(WEB)]
    assert leaf.not_valid_before_utc < NOW < leaf.not_valid_after_utc
    leaf.verify_directly_issued_by(root)
    _, other = x509.load_pem_x509_certificates(unknown_ca_pem(WEB, NOW))
    with pytest.raises(ValueError, match="does not match certificate issuer"):
        leaf.verify_directly_issued_by(other)


def test_its_key_is_in_a_private_file(tmp_path):
    bundle = tmp_path / "bundle.pem"
    pem = unknown_ca_pem(WEB, NOW)
    bundle.write_bytes(pem[pem.index(b"-----BEGIN CERTIFICATE") :])
    file = tmp_path / "unknown-ca.pem"
    tls_client(pem, file, bundle)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
