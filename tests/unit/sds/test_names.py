"""Which secrets a caller may ask for."""

import pytest

from app.ca.rpc.sds_names import MAX_NAMES, SecretKind
from app.core.errors import InvalidInputError
from tests.unit.sds.requests import CATALOG, DOMAIN, OWN


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("default", SecretKind.SVID),
        (OWN, SecretKind.SVID),
        ("ROOTCA", SecretKind.BUNDLE),
        (DOMAIN, SecretKind.BUNDLE),
    ],
)
def test_a_caller_has_two_names_for_each_of_its_secrets(name, kind):
    assert CATALOG.kind(name) is kind


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Default",
        "default\n",
        "rootca",
        "*",
        "ALL",
        "spiffe://example.org/ns/shop/sa/other",
        "spiffe://other.org",
        OWN + "/",
        "file-cert:a~b",
    ],
)
def test_any_other_name_is_refused_by_its_name_and_what_may_be_asked_is_said(name):
    with pytest.raises(InvalidInputError) as caught:
        CATALOG.kind(name)
    assert repr(name) in caught.value.message
    assert "default" in caught.value.message
    assert "ROOTCA" in caught.value.message


def test_a_long_name_is_not_repeated_whole():
    with pytest.raises(InvalidInputError) as caught:
        CATALOG.kind("x" * 100_000)
    assert len(caught.value.message) < 600


def test_more_names_than_an_honest_client_has_are_refused():
    CATALOG.check(["default"] * MAX_NAMES)
    with pytest.raises(InvalidInputError, match="at most 16"):
        CATALOG.check(["default"] * (MAX_NAMES + 1))
