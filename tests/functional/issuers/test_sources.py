"""Keys of an issuer from a real server on loopback, and from a file."""

import json
import os
import ssl
from ipaddress import ip_network

import pytest

from app.core.clock import SystemClock
from app.core.errors import MeshwardError
from app.issuers.guard import Guard
from app.issuers.sources import DiscoveredJwks, Fetcher, JwksFile, JwksUrl
from app.spiffe.jwks import MAX_JWKS_BYTES, parse_key_set
from tests.assets.certificates import MeshCa
from tests.assets.jwts import jwks
from tests.support.jwks_server import (
    JwksServer,
    answers,
    closes,
    compressed,
    floods,
    hangs,
    speaks_no_http,
    trickles,
)

# Long beside what an answer on loopback takes, short beside a test.
SECONDS = 2.0


@pytest.fixture
async def server():
    async with JwksServer().running() as server:
        yield server


async def problem_of(fetching):
    with pytest.raises(MeshwardError) as problem:
        parse_key_set(await fetching)
    return problem.value.message


async def test_a_key_set_is_fetched_from_its_url(server):
    assert await JwksUrl(server.url, Fetcher()).fetch() == jwks()
    assert server.requests == ["GET /keys HTTP/1.1"]


@pytest.mark.parametrize(
    ("behaviour", "problem"),
    [
        (hangs, "did not answer within"),
        (trickles, "did not answer within"),
        (floods, f"more than {MAX_JWKS_BYTES} bytes"),
        (closes, "cannot fetch"),
        (speaks_no_http, "cannot fetch"),
        (answers(b"", "500 Internal Server Error"), "answered 500"),
        (answers(b"", "204 No Content"), "answered 204"),
        (answers(b"<html>"), "is not JSON"),
        (answers(b""), "is not JSON"),
        (compressed(jwks()), "is not JSON"),
        (compressed(b" " * 100_000_000), "is not JSON"),
        (answers(b"", "200 OK", x="h" * 200_000), "cannot fetch"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_a_server_that_does_not_answer_well_is_given_up(server, behaviour, problem):
    server.behaviour = behaviour
    assert problem in await problem_of(JwksUrl(server.url, Fetcher(seconds=SECONDS)).fetch())
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "303 See Other", "307 X", "308 X"])
async def test_redirects_are_not_followed(server, status):
    async with JwksServer().running() as target:
        server.behaviour = answers(b"", status, location=target.url)
        assert "redirects are not followed" in await problem_of(JwksUrl(server.url, Fetcher()).fetch())
        assert target.requests == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "0"])
async def test_with_a_guard_no_spelling_of_a_blocked_address_is_asked(server, host):
    fetcher = Fetcher(guard=Guard(), seconds=SECONDS)
    assert "which nothing is sent to" in await problem_of(JwksUrl(f"http://{host}:{server.port}/k", fetcher).fetch())
    assert server.requests == []


async def test_with_a_guard_the_server_is_asked_by_its_name_at_the_address_that_was_let_through(server):
    fetcher = Fetcher(guard=Guard([ip_network("127.0.0.0/8"), ip_network("::1/128")]))
    assert await JwksUrl(f"http://localhost:{server.port}/keys?x=1", fetcher).fetch() == jwks()
    assert server.requests == ["GET /keys?x=1 HTTP/1.1"]
    assert server.hosts == [f"localhost:{server.port}"]


async def test_a_name_that_leads_nowhere_is_reported():
    assert "cannot resolve" in await problem_of(JwksUrl("https://none.invalid/keys", Fetcher(guard=Guard())).fetch())


async def test_an_issuer_that_describes_itself_says_where_its_keys_are(server):
    description = json.dumps({"issuer": "x", "jwks_uri": server.url}).encode()
    async with JwksServer().running() as issuer:
        issuer.behaviour = answers(description)
        assert await DiscoveredJwks(f"http://127.0.0.1:{issuer.port}/", Fetcher()).fetch() == jwks()
        assert issuer.requests == ["GET /.well-known/openid-configuration HTTP/1.1"]


@pytest.mark.parametrize("description", [b"{", b"[]", b"{}", b'{"jwks_uri": 7}', b'{"jwks_uri": "file:///etc/passwd"}'])
async def test_a_description_without_a_url_is_refused(server, description):
    server.behaviour = answers(description)
    found = DiscoveredJwks(f"http://127.0.0.1:{server.port}", Fetcher())
    assert "openid-configuration" in await problem_of(found.fetch())


async def test_a_description_that_leads_to_a_blocked_address_is_not_followed(server):
    server.behaviour = answers(json.dumps({"jwks_uri": "http://169.254.169.254/latest"}).encode())
    fetcher = Fetcher(guard=Guard([ip_network("127.0.0.0/8")]), seconds=SECONDS)
    found = DiscoveredJwks(f"http://127.0.0.1:{server.port}", fetcher)
    assert "169.254.169.254, which nothing is sent to" in await problem_of(found.fetch())


async def test_a_proxy_of_the_environment_is_not_asked(server, monkeypatch):
    async with JwksServer().running() as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{proxy.port}")
        assert await JwksUrl(server.url, Fetcher()).fetch() == jwks()
        assert proxy.requests == []


async def test_a_server_that_is_away_is_reported():
    async with JwksServer().running() as server:
        pass
    assert "cannot fetch" in await problem_of(JwksUrl(server.url, Fetcher()).fetch())


async def test_https_is_verified_by_the_authorities_that_are_given(tmp_path):
    ca = MeshCa(SystemClock().now())
    key, chain = ca.serving()
    (tmp_path / "serving.pem").write_bytes(key + chain)
    (tmp_path / "roots.pem").write_text(ca.roots)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "serving.pem")
    async with JwksServer().running(ssl=context) as server:
        url = f"https://localhost:{server.port}/keys"
        guarded = Fetcher(tmp_path / "roots.pem", guard=Guard([ip_network("127.0.0.0/8"), ip_network("::1/128")]))
        assert await JwksUrl(url, guarded).fetch() == jwks()
        assert await JwksUrl(url, Fetcher(tmp_path / "roots.pem")).fetch() == jwks()
        assert "certificate verify failed" in await problem_of(JwksUrl(url, Fetcher()).fetch())
        assert "cannot fetch" in await problem_of(JwksUrl(url, Fetcher(tmp_path / "none.pem")).fetch())


async def test_a_key_set_is_read_from_its_file(tmp_path):
    file = tmp_path / "jwks.json"
    assert "cannot read" in await problem_of(JwksFile(file).fetch())
    file.write_bytes(jwks())
    assert await JwksFile(file).fetch() == jwks()
    file.write_bytes(jwks() + b" " * MAX_JWKS_BYTES)
    assert "larger than" in await problem_of(JwksFile(file).fetch())
    assert "cannot read" in await problem_of(JwksFile(tmp_path).fetch())


async def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "not a file" in await problem_of(JwksFile(tmp_path / "pipe").fetch())
