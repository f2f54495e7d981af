"""Bundles over HTTP: polled, verified, activated whole, kept; and made by a real OPA where it is built."""

import asyncio
import json
import subprocess
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from app.authz.backends.bundle_signature import KeyFile
from app.authz.backends.policy_source import MAX_BACKOFF_SECONDS, BundleOptions, BundleUrl, PathSource
from app.authz.backends.rego import RegoOptions, RegoProvider
from app.authz.providers import Answer
from app.authz.rpc.document import attributes_of
from app.core.errors import InvalidInputError, MeshwardError, UnavailableError
from app.core.last_good import LastGoodFile
from tests.fakes.authz import request
from tests.fakes.checks import check_request
from tests.fakes.clock import ManualClock
from tests.support.peers import OPA

BUNDLES = Path(__file__).parents[2] / "assets" / "opa_bundles"
POLL = 60.0
SECONDS = 20.0


class BundleServer:
    """Serves one answer; with an ETag, and 304 to who has it."""

    def __init__(self):
        self.content, self.etag, self.status, self.headers = b"", "", 200, ""
        self.requests = []
        self.hangs = False

    async def serve(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        self.requests.append(head)
        if self.hangs:
            await reader.read()
        elif self.etag and f"if-none-match: {self.etag}" in head:
            writer.write(b"HTTP/1.1 304 Not Modified\r\n\r\n")
        else:
            etag = f"etag: {self.etag}\r\n" if self.etag else ""
            first = f"HTTP/1.1 {self.status} X\r\ncontent-length: {len(self.content)}\r\n{etag}{self.headers}\r\n"
            writer.write(first.encode() + self.content)
        writer.close()


class Bundled:
    """A provider over a bundle server, and the clock that both wait by."""

    def __init__(self, url, directory):
        self.url, self.directory, self.clock = url, directory, ManualClock()
        self.server = BundleServer()
        self.loaded = []
        self.made = []

    def provider(self, *, keep=False, keys=(), **given):
        kept = LastGoodFile(self.directory / "last-good" / "bundle-ext", "bundle", self.url) if keep else None
        source = BundleUrl(BundleOptions(self.url, POLL, **given), self.clock, kept, lambda: 1.0)
        options = RegoOptions(source, "envoy/authz/allow", SECONDS, 1, keys=keys)
        provider = RegoProvider("ext", options, self.clock, lambda *revisions: self.loaded.append(revisions))
        self.made.append(provider)
        return provider

    def publish(self, name, etag=""):
        self.server.content, self.server.etag = (BUNDLES / f"{name}.tar.gz").read_bytes(), etag


@pytest.fixture
async def bundled(tmp_path, monkeypatch):
    # What a test is not about has time on any machine.
    monkeypatch.setattr("app.authz.backends.policy_source.FETCH_SECONDS", SECONDS * 6)
    given = BundleServer()
    server = await asyncio.start_server(given.serve, "127.0.0.1", 0)
    found = Bundled(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/bundle.tar.gz", tmp_path)
    found.server = given
    yield found
    for provider in found.made:
        await provider.close()
    server.close()
    await server.wait_closed()


def key(algorithm, **given):
    return KeyFile(
        **({"key_id": "k", "algorithm": algorithm, "path": BUNDLES / f"{algorithm}.pem", "scope": "meshward"} | given)
    )


async def decided(provider, path):
    message = check_request(path)
    answer = provider(replace(request("/"), attributes=partial(attributes_of, message.attributes)))
    return answer if isinstance(answer, Answer) else await answer


async def test_a_bundle_is_fetched_and_decides_and_its_revision_is_reported(bundled):
    bundled.publish("RS256")
    provider = bundled.provider(keys=(key("RS256"),))
    await provider.refresh()
    assert not (await decided(provider, "/a")).denial
    assert (await decided(provider, "/b")).denial == "its policy denies the request, revision r-RS256"
    assert bundled.loaded == [("r-RS256", "")]


async def test_a_bundle_is_asked_for_when_it_is_due_and_with_what_is_there(bundled):
    bundled.publish("RS256", '"v1"')
    provider = bundled.provider()
    for _ in range(3):
        await provider.refresh()
    assert len(bundled.server.requests) == 1
    bundled.clock.advance(POLL)
    await provider.refresh()
    assert 'if-none-match: "v1"' in bundled.server.requests[1]
    bundled.publish("ES256", '"v2"')
    bundled.clock.advance(POLL)
    await provider.refresh()
    assert bundled.loaded == [("r-RS256", ""), ("r-ES256", "r-RS256")]


async def test_a_token_is_sent_as_its_file_has_it(bundled, tmp_path):
    (tmp_path / "token").write_text("first\n")
    bundled.publish("RS256")
    provider = bundled.provider(token_file=tmp_path / "token")
    await provider.refresh()
    (tmp_path / "token").write_text("second")
    bundled.clock.advance(POLL)
    await provider.refresh()
    assert ["bearer first" in bundled.server.requests[0], "bearer second" in bundled.server.requests[1]] == [True, True]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"status": 500}, "answered 500"),
        ({"status": 304}, "answered 304"),
        ({"status": 302, "headers": "location: http://169.254.169.254/\r\n"}, "answered 302, and redirects are not"),
        ({"content": b"garbage"}, "is not a bundle"),
        ({"content": b"\0" * (17 << 20)}, "answered more than"),
        ({"content": (BUNDLES / "ES256.tar.gz").read_bytes()}, "the bundle is signed with 'ES256'"),
        ({"content": (BUNDLES / "RS256.tar.gz").read_bytes()[:-40]}, "is not a bundle"),
    ],
)
async def test_what_is_no_bundle_leaves_the_one_before_active(bundled, changes, problem):
    bundled.publish("RS256")
    provider = bundled.provider(keys=(key("RS256"),))
    await provider.refresh()
    for name, value in changes.items():
        setattr(bundled.server, name, value)
    bundled.clock.advance(POLL)
    for _ in range(2):
        with pytest.raises(MeshwardError, match=problem):
            await provider.refresh()
    assert not (await decided(provider, "/a")).denial
    assert bundled.loaded == [("r-RS256", "")]


async def test_a_bundle_that_is_refused_is_fetched_again(bundled):
    bundled.publish("RS256", '"v1"')
    provider = bundled.provider()
    await provider.refresh()
    bundled.server.content, bundled.server.etag = b"garbage", '"v2"'
    for _ in range(2):
        bundled.clock.advance(POLL)
        with pytest.raises(InvalidInputError, match="is not a bundle"):
            await provider.refresh()
    assert ['if-none-match: "v1"' in head for head in bundled.server.requests] == [False, True, True]
    # The same ETag, as from a store of files that answers before it has the whole one.
    bundled.publish("ES256", '"v2"')
    bundled.clock.advance(POLL)
    await provider.refresh()
    assert bundled.loaded[-1] == ("r-ES256", "r-RS256")


async def test_a_server_that_fails_is_asked_less_and_less_often(bundled):
    bundled.server.status = 503
    provider = bundled.provider()
    asked = []
    for second in range(200):
        with pytest.raises(UnavailableError, match="answered 503"):
            await provider.refresh()
        if len(bundled.server.requests) > len(asked):
            asked.append(second)
        bundled.clock.advance(1)
    assert asked == [0, 1, 3, 7, 15, 31, 63, 63 + MAX_BACKOFF_SECONDS, 63 + 2 * MAX_BACKOFF_SECONDS]
    assert (await decided(provider, "/a")).denial == "its policies are not loaded yet"


async def test_a_server_that_hangs_is_waited_for_in_bounded_time(bundled, monkeypatch):
    monkeypatch.setattr("app.authz.backends.policy_source.FETCH_SECONDS", 0.2)
    bundled.server.hangs = True
    with pytest.raises(UnavailableError, match=r"did not answer within 0\.2 s"):
        await bundled.provider().refresh()


async def test_what_was_active_last_decides_after_a_start_without_the_server(bundled):
    bundled.publish("RS256")
    await bundled.provider(keep=True, keys=(key("RS256"),)).refresh()
    bundled.server.status = 503
    provider = bundled.provider(keep=True, keys=(key("RS256"),))
    await provider.refresh()
    assert not (await decided(provider, "/a")).denial
    # That the server fails is said all the same.
    with pytest.raises(UnavailableError, match="answered 503"):
        await provider.refresh()
    # What is kept is verified like what is fetched.
    with pytest.raises(InvalidInputError, match="is signed with 'RS256'"):
        await bundled.provider(keep=True, keys=(key("ES256"),)).refresh()


async def test_what_was_not_valid_is_not_kept(bundled):
    bundled.publish("ES256")
    with pytest.raises(InvalidInputError):
        await bundled.provider(keep=True, keys=(key("RS256"),)).refresh()
    assert not (bundled.directory / "last-good").exists()


@asynccontextmanager
async def provided(path, *keys):
    options = RegoOptions(PathSource(path), "envoy/authz/allow", SECONDS, 1, keys=keys)
    provider = RegoProvider("ext", options, ManualClock())
    try:
        await provider.refresh()
        yield provider
    finally:
        await provider.close()


@pytest.mark.peer
@pytest.mark.parametrize("build", [False, True])
async def test_a_bundle_that_opa_builds_and_signs_now_is_verified(tmp_path, build):
    source, packed, secret = tmp_path / "source", tmp_path / "bundle.tar.gz", tmp_path / "secret"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "policy.rego").write_text(
        "package envoy.authz\nimport rego.v1\nallow if input.parsed_path[0] == data.deep.er.k\n"
    )
    odd = {
        "k": "a",
        "n": [1, -0.0, 1e30, 12345678901234567890, 1.25e-9],
        "t": 'é\u2028<&>"\\\b\f\n\t\x7f😀',
        "e": [{}, [], None],
    }
    (source / "deep" / "er" / "data.json").write_text(json.dumps(odd))
    (source / "data.yaml").write_text("y: {b: 1.50, a: 10.0}\n")
    secret.write_text("a secret of this test")

    def run(*arguments, where):
        subprocess.run([*arguments], cwd=where, check=True, capture_output=True)

    program, signing = OPA.required(), ("--signing-alg", "HS256", "--signing-key", secret.read_text())
    if build:
        # What it builds from has to be signed as well.
        run(program, "sign", *signing, "--bundle", "source", "-o", "source", where=tmp_path)
        verifying = "--verification-key", secret.read_text(), "--revision", "r9"
        run(program, "build", *signing, *verifying, "--bundle", "source", "-o", packed, where=tmp_path)
    else:
        run(program, "sign", *signing, "--bundle", ".", "-o", ".", where=source)
        run("tar", "czf", packed, *sorted(path.name for path in source.iterdir()), where=source)
    hmac = KeyFile("k", "HS256", secret)
    async with provided(packed, hmac) as provider:
        assert not (await decided(provider, "/a")).denial
        assert (await decided(provider, "/b")).denial
    with pytest.raises(InvalidInputError, match="is not by the key k"):
        async with provided(packed, replace(hmac, path=source / "policy.rego")):
            pass
