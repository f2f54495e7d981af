"""Which servers may be asked for keys that a document names: no address from which the network gives secrets away."""

import asyncio
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from app.core.errors import UnavailableError

IpAddress = IPv4Address | IPv6Address
IpNetwork = IPv4Network | IPv6Network

# This machine, link-local addresses (which the metadata services of clouds have), the metadata services that have
# others (Azure, Alibaba, AWS over IPv6, Oracle), and what is no single host.
BLOCKED = tuple(
    map(
        ip_network,
        (
            "0.0.0.0/8",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "224.0.0.0/4",
            "255.255.255.255/32",
            "168.63.129.16/32",
            "100.100.100.200/32",
            "192.0.0.192/32",
            "::/128",
            "::1/128",
            "fe80::/10",
            "ff00::/8",
            "fd00:ec2::254/128",
        ),
    )
)
# By which an IPv6 address stands for an IPv4 one (RFC 6052, section 2.1).
_NAT64 = IPv6Network("64:ff9b::/96")
_IPV4_BITS = 0xFFFFFFFF
# Lookups at once. A resolver that hangs holds these threads and no others.
_LOOKUPS = 8


class Guard:
    """Resolves names, and refuses those that lead to a blocked address; `allowed` are networks that are not blocked."""

    def __init__(self, allowed: Iterable[IpNetwork] = ()) -> None:
        self._allowed = tuple(allowed)
        self._threads = ThreadPoolExecutor(_LOOKUPS, thread_name_prefix="jwks-lookup")

    def refuses(self, address: IpAddress) -> bool:
        """Whether nothing may be fetched from `address`."""
        plain = _plain(address)
        if any(_contains(network, plain) for network in self._allowed):
            return False
        return any(_contains(network, plain) for network in BLOCKED)

    async def resolve(self, host: str, port: int) -> list[IpAddress]:
        """Return the addresses of the host, a name or an address. Raises UnavailableError if one is blocked."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._threads, _look_up, host, port)
        except (OSError, UnicodeError) as error:
            raise UnavailableError(f"cannot resolve {host}: {error}") from error
        for address in found:
            if self.refuses(address):
                raise UnavailableError(
                    f"{host} is {address}, which nothing is sent to: see authz.jwks_allowed_networks"
                )
        return found


def _look_up(host: str, port: int) -> list[IpAddress]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ip_address(str(at[0]).partition("%")[0]) for *_, at in found))


def _plain(address: IpAddress) -> IpAddress:
    """Return the IPv4 address that an IPv6 one stands for, any other as it is."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    return IPv4Address(int(address) & _IPV4_BITS) if address in _NAT64 else address


def _contains(network: IpNetwork, address: IpAddress) -> bool:
    return network.version == address.version and address in network
