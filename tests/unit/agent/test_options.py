"""What the agent is started with."""

import pytest

from app.agent.authority import Server
from app.agent.options import choose_tokens, parse_server, read_trust_bundle
from app.agent.tokens import MAX_TOKEN_LENGTH, GivenToken, NoToken, TokenFile
from app.core.errors import InvalidInputError
from tests.fakes.mesh_ca import MeshCa


@pytest.mark.parametrize(
    ("address", "name", "server"),
    [
        ("mesh.example.org:15012", None, Server("mesh.example.org", 15012, "mesh.example.org")),
        ("mesh.example.org", None, Server("mesh.example.org", 15012, "mesh.example.org")),
        ("127.0.0.1:1", "localhost", Server("127.0.0.1", 1, "localhost")),
        ("[::1]:443", None, Server("::1", 443, "::1")),
        ("[::1]", "x", Server("::1", 15012, "x")),
    ],
)
def test_a_server_is_an_address_and_the_name_in_its_certificate(address, name, server):
    assert parse_server(address, name) == server


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
def test_what_is_no_address_is_refused(address):
    with pytest.raises(InvalidInputError, match="write host:port"):
        parse_server(address, None)


def test_a_token_comes_from_the_option_or_the_file_before_the_environment(tmp_path):
    path = tmp_path / "token"
    assert choose_tokens("a", None, "c") == GivenToken("a")
    assert choose_tokens(None, path, "c") == TokenFile(path)
    assert choose_tokens(None, None, "c") == GivenToken("c")
    assert choose_tokens(None, None, None) == choose_tokens(None, None, "") == NoToken()
    with pytest.raises(InvalidInputError, match="use one of them"):
        choose_tokens("a", path, None)


def test_a_token_file_is_read_anew_each_time(tmp_path):
    source = TokenFile(tmp_path / "token")
    assert source.read() is None
    source.path.write_text("first\n")
    assert source.read().secret == "first"
    source.path.write_text("second")
    assert source.read().secret == "second"


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"two words", b"a\r\nb", b"\xff\xfe", "é".encode(), b"x" * (MAX_TOKEN_LENGTH + 1)]
)
def test_a_file_that_holds_no_token_is_refused_without_repeating_it(tmp_path, content):
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match="holds no join token") as caught:
        TokenFile(path).read()
    assert "words" not in caught.value.message


def test_a_token_file_that_cannot_be_read_is_an_error_and_not_an_absence(tmp_path):
    with pytest.raises(InvalidInputError, match="cannot read the join token file"):
        TokenFile(tmp_path).read()


def test_a_trust_bundle_is_read_from_its_file(tmp_path):
    path = tmp_path / "bundle.pem"
    with pytest.raises(InvalidInputError, match=r"copy bundle\.pem"):
        read_trust_bundle(path)
    path.write_text("no certificate")
    with pytest.raises(InvalidInputError, match=r"bundle\.pem: the trust bundle holds no"):
        read_trust_bundle(path)
    roots = MeshCa().roots
    path.write_text(roots)
    assert read_trust_bundle(path) == roots
