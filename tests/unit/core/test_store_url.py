import pytest

from app.core.errors import InvalidInputError
from app.core.net import Address
from app.core.store_url import StoreKind, StoreUrl, parse_store_url

LOCAL = (Address("127.0.0.1", 6379),)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("memory://", StoreUrl(StoreKind.MEMORY)),
        ("valkey://127.0.0.1", StoreUrl(StoreKind.SINGLE, LOCAL)),
        ("redis://127.0.0.1:6379/3", StoreUrl(StoreKind.SINGLE, LOCAL, database=3)),
        ("valkeys://127.0.0.1", StoreUrl(StoreKind.SINGLE, LOCAL, tls=True)),
        ("rediss://127.0.0.1", StoreUrl(StoreKind.SINGLE, LOCAL, tls=True)),
        ("valkey://[::1]:7000", StoreUrl(StoreKind.SINGLE, (Address("::1", 7000),))),
        ("valkey://me:p%40%2Fss@127.0.0.1", StoreUrl(StoreKind.SINGLE, LOCAL, username="me", password="p@/ss")),
        ("valkey://:p@127.0.0.1", StoreUrl(StoreKind.SINGLE, LOCAL, password="p")),
        ("unix:///run/valkey.sock", StoreUrl(StoreKind.SINGLE, path="/run/valkey.sock")),
        (
            "unix://me:p@/run/v?db=2",
            StoreUrl(StoreKind.SINGLE, path="/run/v", database=2, username="me", password="p"),
        ),
        (
            "valkeys+cluster://a:1,b",
            StoreUrl(StoreKind.CLUSTER, (Address("a", 1), Address("b", 6379)), tls=True),
        ),
        (
            "redis+sentinel://a,b:1/main/4",
            StoreUrl(StoreKind.SENTINEL, (Address("a", 26379), Address("b", 1)), service="main", database=4),
        ),
    ],
)
def test_each_form_is_read(text, found):
    assert parse_store_url(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "memory://x",
        "redis:/h",
        "http://h",
        "valkey://",
        "valkey://h:x",
        "valkey://h:0",
        "valkey://h/db",
        "valkey://h/99999999",
        "valkey://h/1/2",
        "valkey://a,b",
        "valkey+sentinel://a",
        "valkey+sentinel://a/",
        "valkey+sentinel://a/b c",
        "valkey+cluster://a/1",
        "valkey+cluster://" + ",".join(["a"] * 33),
        "valkey+replica://a",
        "unix://run",
        "unix://",
        "unix:///",
        "unix:///a?x=1",
        "unix:///a?db=x",
        "unix://me/run",
        "valkey://h\n/0",
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(InvalidInputError):
        parse_store_url(text)


@pytest.mark.parametrize(
    "text", ["valkey://user:hunter2@h:x", "valkey://user:hunter2@", "valkey://u:hunter2@h/hunter2"]
)
def test_what_is_refused_is_not_repeated(text):
    with pytest.raises(InvalidInputError) as caught:
        parse_store_url(text)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "memory://",
        "valkey://h:1/3",
        "valkeys+sentinel://a:1,b:2/main/4",
        "valkey+cluster://a:1,[::1]:2",
        "unix:///run/v%20x?db=7",
    ],
)
def test_a_url_without_credentials_is_written_as_it_is_read(text):
    assert str(parse_store_url(text)) == text
    assert parse_store_url(str(parse_store_url(text))) == parse_store_url(text)


def test_neither_text_nor_representation_has_the_password():
    url = parse_store_url("valkey://user:hunter2@h:1/3")
    assert str(url) == "valkey://h:1/3"
    assert "hunter2" not in repr(url)
