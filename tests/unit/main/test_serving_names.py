"""The names in the control plane's own certificate."""

from ipaddress import IPv4Address, IPv6Address

import pytest

from app.main.parts import serving_names

LOOPBACK = (IPv4Address("127.0.0.1"), IPv6Address("::1"))


def test_the_names_of_the_settings_and_loopback_are_in_it():
    names = ("localhost", "istiod.istio-system.svc", "10.0.0.7", "fd00::7")
    assert serving_names(names, "0.0.0.0") == (
        ("localhost", "istiod.istio-system.svc"),
        (*LOOPBACK, IPv4Address("10.0.0.7"), IPv6Address("fd00::7")),
    )


@pytest.mark.parametrize("everywhere", ["0.0.0.0", "::"])
def test_an_address_that_stands_for_all_is_not_in_it(everywhere):
    assert serving_names((), everywhere) == ((), LOOPBACK)


@pytest.mark.parametrize(
    ("bound", "dns_names", "addresses"),
    [
        ("192.0.2.5", (), (*LOOPBACK, IPv4Address("192.0.2.5"))),
        ("mesh.example.org", ("mesh.example.org",), LOOPBACK),
        ("127.0.0.1", (), LOOPBACK),
    ],
)
def test_where_it_is_bound_is_in_it_once(bound, dns_names, addresses):
    assert serving_names((bound,), bound) == (dns_names, addresses)
