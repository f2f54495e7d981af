"""From which addresses no keys are fetched."""

from ipaddress import ip_address, ip_network

import pytest

from app.issuers.guard import Guard

BLOCKED = [
    "127.0.0.1",
    "127.9.9.9",
    "0.0.0.0",
    "169.254.169.254",
    "169.254.170.2",
    "168.63.129.16",
    "100.100.100.200",
    "192.0.0.192",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "ff02::1",
    "fd00:ec2::254",
    "::ffff:169.254.169.254",
    "::ffff:127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
]


@pytest.mark.parametrize("address", BLOCKED)
def test_addresses_that_give_secrets_away_are_refused(address):
    assert Guard().refuses(ip_address(address))


@pytest.mark.parametrize(
    "address", ["10.1.2.3", "192.0.2.1", "198.51.100.7", "2001:db8::1", "fd00::1", "64:ff9b::a01:203"]
)
def test_addresses_of_servers_are_not(address):
    assert not Guard().refuses(ip_address(address))


def test_what_the_operator_allows_is_allowed_in_each_of_its_forms():
    guard = Guard([ip_network("127.0.0.0/8")])
    assert not guard.refuses(ip_address("127.0.0.1"))
    assert not guard.refuses(ip_address("::ffff:127.0.0.1"))
    assert guard.refuses(ip_address("::1"))
    assert guard.refuses(ip_address("169.254.169.254"))
