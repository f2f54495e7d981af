"""IP addresses of requests."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address

from app.authz.model import CheckInput, IpAddress, IpNetwork

FORWARDED_FOR = "x-forwarded-for"
# Addresses that were read recently; bounds the memory that hostile input can take.
READ_CACHE_SIZE = 4096
# The longest text form of an address, an IPv6 one with a zone.
MAX_ADDRESS_LENGTH = 64

_V4_IN_V6 = IPv6Network("::ffff:0:0/96")
_V4_IN_V6_PREFIX = 96


@lru_cache(maxsize=READ_CACHE_SIZE)
def read_address(text: str) -> IpAddress | None:
    """Return the address, None if the text is none, such as a pipe's."""
    if len(text) > MAX_ADDRESS_LENGTH:
        return None
    try:
        return ip_address(text)
    except ValueError:
        return None


def is_mapped(block: IpNetwork) -> bool:
    """Whether the block is one of IPv4 addresses that are written as IPv6, `::ffff:10.0.0.0/104`."""
    return isinstance(block, IPv6Network) and block.subnet_of(_V4_IN_V6)


def other_form(block: IpNetwork) -> IpNetwork | None:
    """Return the block of the same IPv4 addresses written as IPv6, or the other way round; None for any other block."""
    number = int(block.network_address)
    if isinstance(block, IPv4Network):
        return IPv6Network((int(_V4_IN_V6.network_address) | number, _V4_IN_V6_PREFIX + block.prefixlen))
    if is_mapped(block):
        return IPv4Network((IPv4Address(number & 0xFFFFFFFF), block.prefixlen - _V4_IN_V6_PREFIX))
    return None


def remote_address_of(request: CheckInput) -> IpAddress | None:
    """Return the client's address as Envoy takes it, None if it is not known.

    It is the entry of `x-forwarded-for` after which as many others stand as proxies are trusted, or the peer's address
    if there is none, or no address. At a gateway, with `use_remote_address`, Envoy has appended the peer before it
    asks, and at a sidecar it takes whom the peer named last, so that this holds for both. For a peer on its own machine
    a gateway appends another address of the machine, and so such a peer is itself the client.
    """
    source = request.connection.source_ip
    if request.is_tcp or (source is not None and source.is_loopback and not request.connection.trusted_hops):
        return source
    forwarded = request.headers.get(FORWARDED_FOR)
    if forwarded is None:
        return None if request.lacks(FORWARDED_FOR) else request.connection.source_ip
    entries = ",".join(forwarded).rsplit(",", request.connection.trusted_hops + 1)
    if len(entries) <= request.connection.trusted_hops:
        return request.connection.source_ip
    return read_address(entries[-1 - request.connection.trusted_hops].strip()) or request.connection.source_ip


def remote_addresses(request: CheckInput) -> tuple[IpAddress | None, ...]:
    """Return the addresses that the client may have, None for one that is missing.

    Without trusted proxies the client is the peer to a proxy that is the first of the mesh, and to one behind another
    it is whom that one saw, the last entry of `x-forwarded-for` (Envoy's `use_remote_address`). Which of the two the
    proxy is the check does not tell.
    """
    if request.connection.trusted_hops or request.is_tcp:
        return (request.remote_ip,)
    forwarded = request.headers.get(FORWARDED_FOR)
    if forwarded is None:
        return (request.remote_ip, None) if request.lacks(FORWARDED_FOR) else (request.remote_ip,)
    return (request.remote_ip, read_address(forwarded[-1].rpartition(",")[2].strip()))
