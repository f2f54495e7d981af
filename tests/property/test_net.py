"""Addresses are read back as they were written, and hostile text is refused with InvalidInputError alone."""

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import InvalidInputError
from app.core.net import Address, parse_address

NAMES = st.from_regex(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63}){0,3}", fullmatch=True).filter(lambda name: len(name) < 254)


@given(st.ip_addresses().map(str) | NAMES, st.integers(0, 65535))
def test_an_address_is_read_back(host, port):
    address = Address(host, port)
    assert parse_address(str(address), allow_port_0=True) == address


@given(st.text() | st.text("0123456789abz:[].%-_"), st.none() | st.integers(1, 65535))
def test_what_was_read_reads_the_same_again_and_anything_else_is_refused(text, default_port):
    with suppress(InvalidInputError):
        address = parse_address(text, default_port=default_port)
        assert address.port
        assert parse_address(str(address)) == address
