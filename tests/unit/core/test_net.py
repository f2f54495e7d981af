"""Addresses: what is read, what is refused, and the sentence that says why."""

import re

import pytest

from app.core.errors import InvalidInputError
from app.core.net import MAX_ADDRESS_LENGTH, Address, is_dns_name, is_loopback, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:1", Address("127.0.0.1", 1)),
        ("[::1]:65535", Address("::1", 65535)),
        ("[fe80::1%eth0]:443", Address("fe80::1%eth0", 443)),
        ("api.shop.svc:8080", Address("api.shop.svc", 8080)),
        ("control_plane:1", Address("control_plane", 1)),
        (f"{'a' * 63}.example.:1", Address(f"{'a' * 63}.example.", 1)),
    ],
)
def test_an_address_is_read_and_written_the_same(text, address):
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":1",
        "host:",
        "host:99999",
        "host:-1",
        "host:1:2",
        "ho st:1",
        "u@h:1",
        "http://h:1",
        "fd00::1:80",
        "[x]:1",
        "[::::]:1",
        "[]:1",
        "[[::1]]:1",
        "[127.0.0.1]:1",
        "[::1]1",
        "h:1\n",
        "h\n:1",
        "h:\u0663",
        "h\u0000:1",
        "a..b:1",
        ".:1",
        f"{'a' * 64}:1",
        "a." * MAX_ADDRESS_LENGTH + "a:1",
    ],
)
@pytest.mark.parametrize("default_port", [None, 15012])
def test_malformed_address_is_refused(text, default_port):
    with pytest.raises(InvalidInputError, match="write host:port") as caught:
        parse_address(text, default_port=default_port, allow_port_0=True)
    assert len(caught.value.message) < 2 * MAX_ADDRESS_LENGTH + 300


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("15012", "is not host:port"),
        ("host", "is not host:port"),
        ("h:65536", "is not host:port with a port up to 65535"),
        ("::1:15012", "has an IPv6 address without brackets"),
        ("::1", "has an IPv6 address without brackets"),
        ("a b:1", "'a b' is neither an address nor the name of a host"),
    ],
)
def test_the_message_names_the_problem(text, problem):
    with pytest.raises(InvalidInputError, match=re.escape(problem)):
        parse_address(text)


def test_the_port_may_be_left_out_where_there_is_a_default():
    assert parse_address("h", default_port=15012) == Address("h", 15012)
    assert parse_address("[::1]", default_port=15012) == Address("::1", 15012)
    assert parse_address("h:1", default_port=15012) == Address("h", 1)


def test_port_0_is_for_listeners():
    assert parse_address("0.0.0.0:0", allow_port_0=True) == Address("0.0.0.0", 0)
    for default_port in (None, 15012):
        with pytest.raises(InvalidInputError, match="has port 0"):
            parse_address("h:00", default_port=default_port)


@pytest.mark.parametrize(
    ("host", "loopback", "name"),
    [
        ("127.0.0.1", True, False),
        ("127.9.9.9", True, False),
        ("::1", True, False),
        ("localhost", True, True),
        ("0.0.0.0", False, False),
        ("::", False, False),
        ("192.0.2.1", False, False),
        ("localhost.example", False, True),
        ("127.0.0.1.example", False, True),
        ("127.1", False, True),
    ],
)
def test_what_an_address_stands_for(host, loopback, name):
    address = Address(host, 1)
    assert (address.is_loopback, address.is_name) == (loopback, name)
    assert is_loopback(host) is loopback


def test_an_address_is_the_start_of_a_url():
    assert Address("::1", 80).url == "http://[::1]:80"
    assert Address("api", 80).url == "http://api:80"


@pytest.mark.parametrize("name", ["a", "a.b", "a-b.c1", "x" * 63, ".".join(["x" * 63] * 3) + "." + "x" * 61, "1.2"])
def test_a_dns_name_is_made_of_lower_case_labels(name):
    assert is_dns_name(name)


@pytest.mark.parametrize(
    "name", ["", ".", "a.", ".a", "a..b", "-a", "a-", "A", "a_b", "é", "x" * 64, "a\n", ".".join(["x" * 63] * 4)]
)
def test_what_is_no_dns_name_is_found(name):
    assert not is_dns_name(name)
