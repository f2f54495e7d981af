"""The admin token: where it lies, who bears it, and how it is replaced."""

import hmac
import stat

import pytest
from starlette.requests import Request

from app.core.errors import NotFoundError, PreconditionError, UnauthenticatedError
from app.core.private_files import create_private_file
from app.transport.rest.authentication import TokenAuthenticator, ensure_token, read_token, rotate_token


@pytest.fixture
def path(tmp_path):
    return tmp_path / "admin.token"


def request(*authorization):
    headers = [(b"authorization", value.encode("latin-1")) for value in authorization]
    return Request({"type": "http", "method": "GET", "path": "/v1/x", "headers": headers, "client": ("192.0.2.1", 1)})


def test_a_token_is_made_once_and_is_private(path):
    ensure_token(path)
    token = read_token(path)
    ensure_token(path)
    assert read_token(path) == token
    assert len(token) >= 43  # 256 bits
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_two_tokens_are_alike(tmp_path):
    ensure_token(tmp_path / "a")
    ensure_token(tmp_path / "b")
    assert read_token(tmp_path / "a") != read_token(tmp_path / "b")


def test_a_token_that_others_can_read_is_refused(path):
    ensure_token(path)
    path.chmod(0o644)
    for use in (read_token, ensure_token, TokenAuthenticator):
        with pytest.raises(PreconditionError, match="chmod 600"):
            use(path)


@pytest.mark.parametrize("content", [b"", b"\n", b"short", b"a" * 5000, b"\xff" * 40, b"a\nb" * 20, b"\x00" * 40])
def test_a_file_that_holds_no_token_is_refused(path, content):
    create_private_file(path, content)
    with pytest.raises(PreconditionError, match="--rotate"):
        read_token(path)


def test_a_missing_token_is_named(path):
    with pytest.raises(NotFoundError, match=r"admin\.token"):
        TokenAuthenticator(path)


def test_the_bearer_of_the_token_passes(path):
    ensure_token(path)
    authenticator = TokenAuthenticator(path)
    authenticator.authenticate(request(f"Bearer {read_token(path)}"))
    authenticator.authenticate(request(f"bearer  {read_token(path)}"))


def test_nobody_else_does(path):
    ensure_token(path)
    token = read_token(path)
    authenticator = TokenAuthenticator(path)
    for headers in (
        (),
        ("",),
        ("Bearer",),
        ("Bearer ",),
        (token,),
        (f"Basic {token}",),
        (f"Bearer {token}x",),
        (f"Bearer {token[:-1]}",),
        (f"Bearer {token.swapcase()}",),
        (f"Bearer {token}", f"Bearer {token}"),
        ("Bearer wrong", f"Bearer {token}"),
        (f"Bearer {token},Bearer wrong",),
        ("Bearer " + "x" * 100_000,),
        ("Bearer \xe9",),
    ):
        with pytest.raises(UnauthenticatedError) as caught:
            authenticator.authenticate(request(*headers))
        assert token not in caught.value.message


def test_a_failed_attempt_has_its_reason_without_what_was_presented(path):
    ensure_token(path)
    with pytest.raises(UnauthenticatedError) as caught:
        TokenAuthenticator(path).authenticate(request("Bearer hunter2"))
    assert caught.value.reason == "wrong_token"
    assert "hunter2" not in caught.value.message


def test_tokens_are_compared_in_constant_time_and_by_their_digest(path, monkeypatch):
    ensure_token(path)
    token = read_token(path)
    authenticator = TokenAuthenticator(path)
    assert token not in str(vars(authenticator))
    compared = []

    def compare(one, other):
        compared.append((len(one), len(other)))
        return False

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for presented in (token, "x"):
        with pytest.raises(UnauthenticatedError):
            authenticator.authenticate(request(f"Bearer {presented}"))
    assert compared == [(32, 32), (32, 32)]


def test_a_rotated_token_is_in_force_with_the_next_request(path):
    ensure_token(path)
    before = read_token(path)
    authenticator = TokenAuthenticator(path)
    rotate_token(path)
    authenticator.authenticate(request(f"Bearer {read_token(path)}"))
    with pytest.raises(UnauthenticatedError):
        authenticator.authenticate(request(f"Bearer {before}"))


def test_without_its_file_nobody_passes_until_there_is_one_again(path):
    ensure_token(path)
    before = read_token(path)
    authenticator = TokenAuthenticator(path)
    path.unlink()
    for _ in range(2):
        with pytest.raises(UnauthenticatedError):
            authenticator.authenticate(request(f"Bearer {before}"))
    ensure_token(path)
    authenticator.authenticate(request(f"Bearer {read_token(path)}"))


def test_a_file_that_becomes_readable_by_others_is_no_longer_trusted(path):
    ensure_token(path)
    authenticator = TokenAuthenticator(path)
    token = read_token(path)
    path.chmod(0o666)
    with pytest.raises(UnauthenticatedError):
        authenticator.authenticate(request(f"Bearer {token}"))
