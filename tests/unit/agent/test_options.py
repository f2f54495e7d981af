"""The agent's options, its join token and its trust bundle."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.agent.options import MAX_TOKEN_LENGTH, TokenSource, agent_options, choose_tokens, read_trust_bundle
from app.core.errors import InvalidInputError
from app.core.net import Address
from app.spiffe.bundle import bundle_jwks, bundle_pem
from app.spiffe.id import TrustDomain
from tests.assets.certificates import MeshCa, root_authority


def options(server, server_name=None, metrics_bind=None, trust_domain=None):
    return agent_options(
        server=server,
        server_name=server_name,
        trust_bundle=Path("bundle.pem"),
        trust_domain=trust_domain,
        join_token=None,
        join_token_file=None,
        data_dir=Path(),
        socket=None,
        allow_uid=None,
        metrics_bind=metrics_bind,
    )


@pytest.mark.parametrize(
    ("address", "name", "server", "server_name"),
    [
        ("mesh.example.org:15012", None, Address("mesh.example.org", 15012), "mesh.example.org"),
        ("mesh.example.org", None, Address("mesh.example.org", 15012), "mesh.example.org"),
        ("127.0.0.1:1", "localhost", Address("127.0.0.1", 1), "localhost"),
        ("[::1]:443", None, Address("::1", 443), "::1"),
        ("[::1]", "x", Address("::1", 15012), "x"),
    ],
)
def test_a_server_is_an_address_and_the_name_in_its_certificate(address, name, server, server_name):
    parsed = options(address, name)
    assert (parsed.server, parsed.server_name) == (server, server_name)


@pytest.mark.parametrize(
    "address",
    [
        "",
        ":15012",
        "host:",
        "host:0",
        "host:65536",
        "host:99999999",
        "https://host",
        "::1",
        "a b:1",
        "h:1\n",
        "u@h:1",
        "h:٣",
    ],
)
def test_a_malformed_address_is_refused(address):
    with pytest.raises(InvalidInputError, match=r"^--server: .*write host:port") as caught:
        options(address)
    assert caught.value.violations[0].path == "--server"


def test_a_token_comes_from_the_option_or_the_file_before_the_environment(tmp_path):
    path = tmp_path / "token"
    assert choose_tokens("a", None, "c") == TokenSource("a")
    assert choose_tokens(None, path, "c") == TokenSource(file=path)
    assert choose_tokens(None, None, "c") == TokenSource("c")
    assert choose_tokens(None, None, None) == choose_tokens(None, None, "") == TokenSource()
    with pytest.raises(InvalidInputError, match="use one of them"):
        choose_tokens("a", path, None)


def test_a_token_file_is_read_again_each_time(tmp_path):
    path = tmp_path / "token"
    source = TokenSource(file=path)
    assert source.read() is None
    path.write_text("first\n")
    assert source.read().secret == "first"
    path.write_text("second")
    assert source.read().secret == "second"


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"two words", b"a\r\nb", b"\xff\xfe", "é".encode(), b"x" * (MAX_TOKEN_LENGTH + 1)]
)
def test_a_malformed_token_file_is_refused_without_repeating_its_content(tmp_path, content):
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match="does not hold a join token") as caught:
        TokenSource(file=path).read()
    assert "words" not in caught.value.message


def test_a_token_file_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(InvalidInputError, match="cannot read the join token file"):
        TokenSource(file=tmp_path).read()


def test_a_trust_bundle_is_read_from_its_file(tmp_path):
    path = tmp_path / "bundle.pem"
    with pytest.raises(InvalidInputError, match=r"copy bundle\.pem"):
        read_trust_bundle(path, None)
    path.write_text("no certificate")
    with pytest.raises(InvalidInputError, match=r"bundle\.pem: the trust bundle holds no"):
        read_trust_bundle(path, None)
    bundle = MeshCa().bundle
    path.write_text(bundle_pem(bundle))
    assert read_trust_bundle(path, None) == bundle
    path.write_text(json.dumps(bundle_jwks(bundle)))
    assert read_trust_bundle(path, None) == bundle


def test_a_bundle_without_one_trust_domain_needs_the_option(tmp_path):
    path, now = tmp_path / "bundle.pem", datetime.now(UTC)
    nameless = root_authority("a root of another CA", now, now + timedelta(days=1)).pem
    for roots, count in ((nameless, 0), (MeshCa().roots + MeshCa(domain="other.org").roots, 2)):
        path.write_text(roots)
        with pytest.raises(InvalidInputError, match=rf"IDs of {count} trust domains.*--trust-domain"):
            read_trust_bundle(path, None)
        assert read_trust_bundle(path, TrustDomain("mesh.org")).trust_domain == TrustDomain("mesh.org")


def test_a_trust_domain_that_is_none_is_named():
    with pytest.raises(InvalidInputError, match="--trust-domain: trust domain 'Mesh' is not valid"):
        options("127.0.0.1", trust_domain="Mesh")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (None, None),
        ("15020", Address("127.0.0.1", 15020)),
        ("0", Address("127.0.0.1", 0)),
        ("0.0.0.0:15020", Address("0.0.0.0", 15020)),
        ("[::1]:15020", Address("::1", 15020)),
    ],
)
def test_a_metrics_bind_without_a_host_is_loopback(text, address):
    assert options("mesh.example.org", metrics_bind=text).metrics_bind == address


@pytest.mark.parametrize("text", ["", "x", "127.0.0.1", ":15020", "70000", "host:x"])
def test_a_malformed_metrics_bind_is_refused_with_the_name_of_its_option(text):
    with pytest.raises(InvalidInputError, match="--metrics-bind"):
        options("mesh.example.org", metrics_bind=text)
