"""An authorization server on loopback that is asked about tokens, and does well or does not."""

import asyncio
import base64
import ssl
from ipaddress import ip_network

import pytest

from app.core.circuit import MAX_FAILURES
from app.core.clock import SystemClock
from app.core.errors import UnavailableError
from app.issuers.guard import Guard
from app.issuers.introspection import MAX_ANSWER_BYTES, RENEW_SECONDS, EndpointOptions, HttpIntrospection
from tests.assets.certificates import MeshCa
from tests.fakes.introspection import IntrospectionServer, closes, floods, hangs, speaks_no_http, trickles

# Long beside what an answer on loopback takes, short beside a test.
SECONDS = 2.0
SECRET = "s3cret:&"
TOKEN = "token-that-nobody-may-see"
LOOPBACK = Guard([ip_network("127.0.0.0/8")])


@pytest.fixture
async def server():
    async with IntrospectionServer().running() as server:
        yield server


@pytest.fixture
def secret_file(tmp_path):
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    return file


@pytest.fixture
async def make(server, secret_file, clock, metrics):
    made = []

    def make(guard=LOOPBACK, url="", seconds=SECONDS, **options):
        given = EndpointOptions("idp", url or server.url, "me@a", secret_file, seconds=seconds, **options)
        made.append(HttpIntrospection(given, guard, clock, metrics))
        return made[-1]

    yield make
    for each in made:
        await each.close()


async def problem_of(asking):
    with pytest.raises(UnavailableError) as problem:
        await asking
    message = problem.value.message
    assert message.startswith("the authorization server idp cannot be asked: ")
    assert TOKEN not in message
    assert SECRET not in message
    return message


async def test_a_token_is_sent_as_a_form_with_the_credentials_of_the_client(make, server):
    assert await make().introspect(TOKEN) == server.content
    headers, form = server.requests[0]
    assert headers[""] == "POST /introspect HTTP/1.1"
    assert headers["host"] == f"127.0.0.1:{server.port}"
    scheme, _, pair = headers["authorization"].partition(" ")
    assert (scheme, base64.b64decode(pair)) == ("Basic", b"me%40a:s3cret%3A%26")
    assert form == {"token": [TOKEN], "token_type_hint": ["access_token"]}


async def test_credentials_can_be_in_the_form(make, server):
    await make(method="client_secret_post").introspect(TOKEN)
    headers, form = server.requests[0]
    assert "authorization" not in headers
    assert (form["client_id"], form["client_secret"]) == (["me@a"], [SECRET])


async def test_connections_are_kept_and_files_are_read_again(make, server, secret_file, clock):
    endpoint = make()
    for _ in range(3):
        await endpoint.introspect(TOKEN)
    assert server.connections == 1
    secret_file.write_text("new")
    clock.advance(RENEW_SECONDS)
    await endpoint.introspect(TOKEN)
    assert base64.b64decode(server.requests[-1][0]["authorization"].split()[1]) == b"me%40a:new"


@pytest.mark.parametrize(
    ("behaviour", "problem"),
    [
        (hangs, "did not answer within 0.3 s"),
        (trickles, "did not answer within 0.3 s"),
        (floods, f"more than {MAX_ANSWER_BYTES} bytes"),
        (closes, "RemoteProtocolError"),
        (speaks_no_http, "RemoteProtocolError"),
    ],
)
async def test_a_server_that_does_not_answer_well_is_given_up(make, server, behaviour, problem):
    server.behaviour = behaviour
    assert problem in await problem_of(make(seconds=0.3 if "within" in problem else SECONDS).introspect(TOKEN))


@pytest.mark.parametrize(
    ("status", "problem"),
    [
        ("500 Internal Server Error", "it answered 500"),
        ("429 Too Many Requests", "it answered 429"),
        ("401 Unauthorized", "it answered 401: check client_id and client_secret_file"),
        ("404 Not Found", "it answered 404"),
        ("302 Found", "it answered 302"),
        ("204 No Content", "it answered 204"),
    ],
)
async def test_another_status_is_no_answer(make, server, status, problem):
    server.status, server.content = status, b""
    assert problem in await problem_of(make().introspect(TOKEN))


async def test_a_server_that_fails_is_left_alone_and_found_again(make, server, clock, metrics):
    endpoint = make()
    server.status = "503 Service Unavailable"
    for _ in range(MAX_FAILURES + 5):
        message = await problem_of(endpoint.introspect(TOKEN))
    assert "left alone" in message
    assert len(server.requests) == MAX_FAILURES
    server.status = "200 OK"
    clock.advance(1.0)
    assert await endpoint.introspect(TOKEN) == server.content
    rendered = metrics.render().decode()
    assert 'meshward_authz_introspections_total{result="unavailable",server="idp"} 8.0' in rendered
    assert 'meshward_authz_introspections_total{result="ok",server="idp"} 1.0' in rendered


async def test_nothing_is_sent_to_a_blocked_address_by_whatever_name(make, server):
    for url in (server.url, server.url.replace("127.0.0.1", "localhost"), "http://169.254.169.254/latest"):
        assert "which nothing is sent to" in await problem_of(make(guard=Guard(), url=url).introspect(TOKEN))
    assert server.requests == []


@pytest.mark.parametrize("content", ["", "\n", "x" * 5000])
async def test_a_secret_that_is_none_is_reported_without_it(make, secret_file, content):
    secret_file.write_text(content)
    assert "must have a secret" in await problem_of(make().introspect(TOKEN))


async def test_a_secret_that_cannot_be_read_is_reported(make, secret_file):
    secret_file.unlink()
    assert "cannot read" in await problem_of(make().introspect(TOKEN))


async def test_the_certificate_of_the_server_is_verified(make, tmp_path):
    ca = MeshCa(SystemClock().now())
    key, chain = ca.serving()
    (tmp_path / "serving.pem").write_bytes(key + chain)
    ca_file = tmp_path / "roots.pem"
    ca_file.write_text(ca.roots)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "serving.pem")
    async with IntrospectionServer().running(context) as server:
        url = server.url.replace("http://127.0.0.1", "https://localhost")
        guard = Guard([ip_network("127.0.0.0/8"), ip_network("::1/128")])
        assert await make(guard, url, ca_file=ca_file).introspect(TOKEN) == server.content
        assert "certificate verify failed" in await problem_of(make(guard, url).introspect(TOKEN))


async def test_one_who_gives_up_leaves_the_others(make, server):
    endpoint = make()
    first, second = (asyncio.create_task(endpoint.introspect(TOKEN)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == server.content
