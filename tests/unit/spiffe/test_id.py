"""SPIFFE-ID standard, sections 2.1 to 2.4."""

import pytest

from app.core.errors import InvalidInputError
from app.spiffe.id import SpiffeId


@pytest.mark.parametrize(
    "text",
    ["spiffe://example.org", "spiffe://example.org/ns/shop/sa/cart", "spiffe://a_b-c.d/A.b_c-9/..."],
)
def test_a_valid_id_is_spelled_back_as_it_was_read(text):
    assert str(SpiffeId.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spiffe://",
        "spiffe:///path",
        "SPIFFE://example.org",
        "http://example.org",
        "spiffe://Example.org",
        "spiffe://example.org:8080/a",
        "spiffe://user@example.org/a",
        "spiffe://example.org/",
        "spiffe://example.org/a/",
        "spiffe://example.org//a",
        "spiffe://example.org/a/../b",
        "spiffe://example.org/./b",
        "spiffe://example.org/a?x=1",
        "spiffe://example.org/a#f",
        "spiffe://example.org/a%2fb",
        "spiffe://example.org/ä",
        "spiffe://example.org/a\n",
        "spiffe://example.org\n",
        "spiffe://example.org/a\x00b",
        "spiffe://" + "a" * 256,
        "spiffe://example.org/" + "a" * 2048,
    ],
)
def test_an_invalid_id_is_refused(text):
    with pytest.raises(InvalidInputError):
        SpiffeId.parse(text)


def test_namespace_and_service_account_come_from_istios_path_alone():
    assert SpiffeId.parse("spiffe://td/ns/shop/sa/cart").workload == ("shop", "cart")
    assert SpiffeId.parse("spiffe://td/ns/shop/sa/cart/x").workload is None
    assert SpiffeId.parse("spiffe://td/shop").namespace is None
